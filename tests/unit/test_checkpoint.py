"""Which checkpoints count and stay: a kill at any moment leaves something whole to go on from."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel import checkpoint

pytestmark = pytest.mark.timeout(60)


def write(folder: Path, tag: str, ranks: int = 2) -> Path:
    """What DeepSpeed leaves of a save, not sealed yet."""
    partial = folder / f"{tag}{checkpoint.PARTIAL}"
    partial.mkdir(parents=True)
    (partial / "mp_rank_00_model_states.pt").write_bytes(b"weights")
    for rank in range(ranks):
        (partial / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"moments")
    return partial


def save(folder: Path, tag: str, metric: float | None = None) -> Path:
    return checkpoint.seal(write(folder, tag), 2, metric, "eval_default_pass1")


def tags(folder: Path) -> list[str]:
    return [c.tag for c in checkpoint.find(folder)]


def test_sealed_ones_count_by_step_the_plain_last(tmp_path):
    for tag in ("global_step10", "best_global_step9", "global_step9"):
        save(tmp_path, tag, 0.5)
    write(tmp_path, "global_step11")
    (tmp_path / "global_step12").mkdir()
    (tmp_path / "notes").mkdir()
    assert tags(tmp_path) == ["best_global_step9", "global_step9", "global_step10"]
    newest = checkpoint.newest(tmp_path)
    assert (newest.step, newest.best, newest.metric, newest.size) == (10, False, 0.5, 21)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink(), "expected one of each of 2 ranks"),
        (lambda p: (p / "mp_rank_00_model_states.pt").unlink(), "no *_model_states.pt"),
        (lambda p: (p / "mp_rank_00_model_states.pt").write_bytes(b""), "model_states.pt is empty"),
    ],
)
def test_what_lacks_something_is_not_sealed(tmp_path, damage, message):
    partial = write(tmp_path, "global_step1")
    damage(partial)
    with pytest.raises(checkpoint.Incomplete) as error:
        checkpoint.seal(partial, 2, None, None)
    assert message in str(error.value) and tags(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / checkpoint.SEAL).unlink(),
        lambda p: (p / checkpoint.SEAL).write_text("{"),
        lambda p: (p / checkpoint.SEAL).write_text('{"files": 3, "metric_value": null}'),
        lambda p: (p / "mp_rank_00_model_states.pt").write_bytes(b"cut"),
        lambda p: (p / "mp_rank_00_model_states.pt").unlink(),
    ],
)
def test_a_damaged_one_is_passed_over_and_kept_aside(tmp_path, damage):
    folder = tmp_path / "_actor"
    save(folder, "global_step1")
    damage(save(folder, "global_step2"))
    assert tags(folder) == ["global_step1"]
    assert checkpoint.prepare(folder).tag == "global_step1"
    assert (folder / "latest").read_text() == "global_step1"
    assert (folder / "global_step2.damaged").is_dir()


def test_nothing_whole_is_a_fresh_start(tmp_path):
    folder = tmp_path / "_actor"
    assert checkpoint.prepare(folder) is None
    write(folder, "global_step1")
    assert checkpoint.prepare(folder) is None and not folder.exists()
    (folder / "global_step1").mkdir(parents=True)  # upstream's own half: without a seal
    assert checkpoint.prepare(folder) is None and not folder.exists()
    assert (tmp_path / "_actor.damaged" / "global_step1.damaged").is_dir()


def test_the_newest_and_the_best_always_stay(tmp_path):
    save(tmp_path, "best_global_step2", 0.9)
    for step, metric in ((2, 0.9), (3, None), (4, 0.1), (5, 0.3)):
        save(tmp_path, f"global_step{step}", metric)
    assert checkpoint.rotate(tmp_path, keep=1) == ["global_step3", "global_step4", "global_step2"]
    assert tags(tmp_path) == ["best_global_step2", "global_step5"]
    assert checkpoint.rotate(tmp_path, keep=0, most_bytes=0) == []
    save(tmp_path, "best_global_step6", 1.0)
    assert checkpoint.rotate(tmp_path, keep=1) == ["best_global_step2"]
    assert tags(tmp_path) == ["global_step5", "best_global_step6"]


def test_too_many_bytes_remove_the_least_of_the_plain_ones(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, f"global_step{step}")
    assert checkpoint.rotate(tmp_path, keep=3, most_bytes=45) == ["global_step1"]


class Killed(Exception):
    """The process is gone at this call."""


def dying(calls: int):
    """The file system's calls that change something, of which only the first `calls` are made."""
    left = [calls]

    def limited(function):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    return limited


@given(st.integers(0, 40), st.lists(st.sampled_from([None, 0.1, 0.5]), min_size=1, max_size=4), st.integers(1, 2))
def test_a_kill_at_any_moment_of_saves_and_rotations_leaves_the_last_whole_one(tmp_path_factory, calls, metrics, keep):
    folder = tmp_path_factory.mktemp("run") / "_actor"
    save(folder, "global_step1", 0.2)
    save(folder, "best_global_step1", 0.2)
    limited, patch = dying(calls), pytest.MonkeyPatch()
    sealed, best = 1, 1
    try:
        for module, name in (
            (os, "rename"),
            (os, "replace"),
            (os, "rmdir"),
            (os, "unlink"),
            (os, "mkdir"),
            (os, "fsync"),
        ):
            patch.setattr(module, name, limited(getattr(module, name)))
        patch.setattr(shutil, "rmtree", limited(shutil.rmtree))
        for step, metric in enumerate(metrics, 2):
            save(folder, f"global_step{step}", metric)
            sealed = step
            if metric == 0.5:
                save(folder, f"best_global_step{step}", metric)
                best = step
            checkpoint.rotate(folder, keep)
            checkpoint.point(folder, f"global_step{step}")
    except Killed:
        pass
    finally:
        patch.undo()
    went_on = checkpoint.prepare(folder)
    assert went_on.step >= sealed
    assert (folder / "latest").read_text() == went_on.tag
    assert any(c.best and c.step >= best for c in checkpoint.find(folder))
    assert all(checkpoint._TAG.fullmatch(p.name) for p in folder.iterdir() if p.is_dir())
    assert json.loads((went_on.path / checkpoint.SEAL).read_text())["files"]
