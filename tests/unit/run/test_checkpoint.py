"""Which checkpoints count and are kept: a kill at any moment leaves a whole one to resume from."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.run import checkpoint

pytestmark = pytest.mark.timeout(60)


def write(folder: Path, tag: str, ranks: int = 2) -> Path:
    """Write the files of DeepSpeed's save, not sealed yet."""
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


def zero(path: Path, start: int = 0, count: int | None = None) -> None:
    """Overwrite a part or all of a file with zeros, like a file system that lost blocks."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(start % size)
        file.write(bytes(size if count is None else count))


@pytest.mark.parametrize(
    "damage",
    [
        zero,
        lambda p: zero(p, 0, 3),
        lambda p: zero(p, -3, 3),
        lambda p: os.truncate(p, p.stat().st_size - 1),
        lambda p: p.write_bytes(p.read_bytes() + b"x"),
    ],
    ids=["zeros", "a zeroed head", "a zeroed tail", "truncated", "grown"],
)
@pytest.mark.parametrize("size", [50, 16, 17, 9, 7])
def test_what_is_not_as_it_was_sealed_falls_back_to_the_one_before(tmp_path, monkeypatch, caplog, size, damage):
    monkeypatch.setattr(checkpoint, "_END", 8)
    folder = tmp_path / "_actor"
    save(folder, "global_step1")
    partial = write(folder, "global_step2")
    name = "mp_rank_00_model_states.pt"
    (partial / name).write_bytes(bytes(range(1, size + 1)))
    sealed = checkpoint.seal(partial, 2, None, None)
    assert checkpoint.problem(sealed) is None
    damage(sealed / name)
    assert checkpoint.problem(sealed) == f"{sealed / name} is cut short or damaged: it is not as it was saved"
    assert checkpoint.prepare(folder).tag == (folder / "latest").read_text() == "global_step1"
    assert (folder / "global_step2.damaged" / name).is_file()
    assert "global_step2 is not as it was saved: kept aside as global_step2.damaged" in caplog.text


def test_a_large_file_is_told_by_its_ends_alone(tmp_path):
    partial = write(tmp_path, "global_step1")
    large = partial / "mp_rank_00_model_states.pt"
    with open(large, "wb") as file:
        file.truncate(2**40)  # sparse: reading it all would take minutes
        file.seek(-5, os.SEEK_END)
        file.write(b"\1the\1")
    if large.stat().st_blocks > 2**16:
        pytest.skip("no sparse files here")
    sealed = checkpoint.seal(partial, 2, None, None)
    assert checkpoint.prepare(tmp_path).tag == "global_step1"
    zero(sealed / large.name, -5, 5)
    assert checkpoint.prepare(tmp_path) is None


def test_a_seal_of_sizes_alone_still_counts(tmp_path):
    sealed = save(tmp_path, "global_step1") / checkpoint.SEAL
    content = json.loads(sealed.read_text())
    assert set(content.pop("ends")) == set(content["files"])
    sealed.write_text(json.dumps(content))
    assert checkpoint.prepare(tmp_path).tag == "global_step1"


@pytest.mark.parametrize("seal", ["{", "[]", '{"files": {}}', '{"files": [], "metric_value": "high"}'])
def test_a_damaged_seal(tmp_path, seal):
    path = save(tmp_path, "global_step1")
    (path / checkpoint.SEAL).write_text(seal)
    assert checkpoint.problem(path) == f"{path / checkpoint.SEAL} is damaged" and not tags(tmp_path)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("global_step7", 7),
        ("best_global_step07", 7),
        ("global_step", None),
        ("global_step7.partial", None),
        ("x", None),
    ],
)
def test_the_step_of_a_tag(name, step):
    assert checkpoint.step_of(name) == step


@pytest.fixture
def stuck(monkeypatch):
    """Make folders impossible to remove, as on NFS while one of their files is read."""

    def rmdir(path, **_):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    monkeypatch.setattr(os, "rmdir", rmdir)


def test_an_old_one_that_cannot_be_removed_is_told_of_once_and_ends_nothing(tmp_path, stuck, caplog):
    folder = tmp_path / "_actor"
    for step in (1, 2):
        save(folder, f"global_step{step}")
    write(folder, "global_step3")  # left half-written by a kill
    assert checkpoint.rotate(folder, keep=1) == ["global_step1"]
    for _ in range(2):
        checkpoint.clear(folder)
        assert checkpoint.prepare(folder).tag == "global_step2"
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {
        "global_step1.deleted", "global_step2", "global_step3.partial.deleted",
    }  # fmt: skip
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and all("cannot be removed" in line and "not empty" in line for line in told)
    save(folder, "global_step1")  # the name can be reused, and removed again
    assert checkpoint.rotate(folder, keep=1) == ["global_step1"]


def test_one_that_cannot_even_be_renamed_stays_and_counts(tmp_path, monkeypatch, caplog):
    for step in (1, 2):
        save(tmp_path, f"global_step{step}")

    def rename(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        assert checkpoint.rotate(tmp_path, keep=1) == []
    assert tags(tmp_path) == ["global_step1", "global_step2"] and "global_step1 cannot be removed" in caplog.text


@pytest.mark.parametrize("nothing_whole", [False, True])
def test_leftovers_that_stay_do_not_stand_in_the_way_of_a_start(tmp_path, stuck, nothing_whole):
    folder = tmp_path / "_actor"
    write(folder, "global_step2")
    if not nothing_whole:
        save(folder, "global_step1")
    went_on = checkpoint.prepare(folder)
    assert (went_on is None and not folder.exists()) if nothing_whole else went_on.tag == "global_step1"


def test_a_disk_that_cannot_be_read_for_now_condemns_nothing(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, f"global_step{step}")

    def fails(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_digest_ends", fails)
        with pytest.raises(OSError, match="Input/output error"):
            checkpoint.prepare(tmp_path)
    assert tags(tmp_path) == ["global_step1", "global_step2"]
    assert checkpoint.prepare(tmp_path).tag == "global_step2"


class Engine:
    """Stand-in for DeepSpeed's part in a save."""

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        assert not save_latest
        write(Path(folder), tag.removesuffix(checkpoint.PARTIAL), ranks=1)


@pytest.mark.parametrize("cannot_remove", [False, True])
def test_a_save_goes_on_when_an_old_one_cannot_be_removed(tmp_path, monkeypatch, request, caplog, cannot_remove):
    saving = pytest.importorskip("openrlhf_mel.upstream.saving")
    alone = {"barrier": lambda: None, "get_world_size": lambda: 1, "broadcast_object_list": lambda *_, **__: None}
    monkeypatch.setattr(saving, "dist", SimpleNamespace(**alone))
    args = SimpleNamespace(ckpt=SimpleNamespace(max_num=1, max_mem=1))
    printed = []
    strategy = SimpleNamespace(
        args=args, is_rank_0=lambda: True, print=printed.append, CKPT_METRIC_FILENAME="metric.json"
    )
    if cannot_remove:
        request.getfixturevalue("stuck")
    for step in (1, 2, 3):
        saving.save(strategy, Engine(), tmp_path, f"global_step{step}", {}, 0.5, "eval_default_pass1")
    assert tags(tmp_path) == ["global_step3"] and (tmp_path / "latest").read_text() == "global_step3"
    assert printed == ["Deleted checkpoint global_step1", "Deleted checkpoint global_step2"]
    assert caplog.text.count("cannot be removed") == 2 * cannot_remove


def test_nothing_whole_is_a_fresh_start(tmp_path):
    folder = tmp_path / "_actor"
    assert checkpoint.prepare(folder) is None
    write(folder, "global_step1")
    assert checkpoint.prepare(folder) is None and not folder.exists()
    (folder / "global_step1").mkdir(parents=True)  # half a save by plain upstream, without a seal
    assert checkpoint.prepare(folder) is None and not folder.exists()
    assert (tmp_path / "_actor.damaged" / "global_step1.damaged").is_dir()


def test_the_newest_and_the_best_always_stay(tmp_path):
    save(tmp_path, "best_global_step2", 0.9)
    for step, metric in ((2, 0.9), (3, None), (4, 0.1), (5, 0.3)):
        save(tmp_path, f"global_step{step}", metric)
    assert checkpoint.rotate(tmp_path, keep=1) == ["global_step2", "global_step3", "global_step4"]
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
    """The process is killed at this call."""


def dying(calls: int):
    """Return a wrapper for calls that change the file system; only the first `calls` are executed."""
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
