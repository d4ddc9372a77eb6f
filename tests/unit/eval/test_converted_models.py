"""The folder of converted models. The conversion is a stand-in."""

from __future__ import annotations

import json
import os

import pytest
from run_folder import cut_short, write_model

from eval import conversion, converted_models
from eval.checkpoint_models import find
from eval.converted_models import fingerprint, materialise, materialised
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def conversions(monkeypatch):
    """Replace the conversion by one that writes a small model; return the list of conversions."""
    made: list[str] = []

    def convert(source, run, target):
        made.append(source.name)
        write_model(target)

    monkeypatch.setattr(conversion, "from_deepspeed", convert)
    return made


def test_an_export_is_its_own(run, conversions, tmp_path):
    run.export("model")
    with materialised(find(run.path)[0], tmp_path / "out", keep=False) as path:
        assert path == run.path / "model"
    assert path.is_dir() and not conversions and not (tmp_path / "out").exists()


def test_converted_once_as_long_as_it_is_the_same(run, conversions, tmp_path):
    source = run.deepspeed("global_step2")
    out = tmp_path / "deep" / "out"
    path = materialise(find(run.path)[0], out)
    assert path == out / "global_step2" and json.loads((path / converted_models.MARKER).read_text())["step"] == 2
    assert materialise(find(run.path)[0], out) == path and len(conversions) == 1
    cut_short(path / "model.safetensors")
    materialise(find(run.path)[0], out)
    assert len(conversions) == 2 and fingerprint(find(run.path)[0]) == fingerprint(find(run.path)[0])
    os.utime(source / "mp_rank_00_model_states.pt", (1, 1))  # as if trained again
    materialise(find(run.path)[0], out)
    run.config(**{"actor.model_name_or_path": "other"})
    materialise(find(run.path)[0], out)
    assert len(conversions) == 4
    assert sorted(p.name for p in out.iterdir()) == [".lock", "global_step2"]


def test_removed_after_use(run, conversions, tmp_path):
    run.deepspeed("global_step2")
    with pytest.raises(ZeroDivisionError), materialised(find(run.path)[0], tmp_path, keep=False) as path:
        assert (path / "config.json").is_file()
        raise ZeroDivisionError
    assert not path.exists() and (run.actor / "global_step2").is_dir()
    with materialised(find(run.path)[0], tmp_path) as path:
        pass
    assert path.is_dir()


def test_what_a_killed_conversion_left_is_no_model(run, conversions, tmp_path):
    run.deepspeed("global_step2")
    (tmp_path / ".global_step2.partial").mkdir()
    (tmp_path / ".global_step2.partial" / "rest").touch()
    assert not (materialise(find(run.path)[0], tmp_path) / "rest").exists()
    assert not (tmp_path / ".global_step2.partial").exists()


def test_a_conversion_that_fails_leaves_nothing(run, monkeypatch, tmp_path):
    run.deepspeed("global_step2")

    def fail(source, run, target):
        write_model(target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "from_deepspeed", fail)
    with pytest.raises(OSError, match="No space left"):
        materialise(find(run.path)[0], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_folder_of_someone_else_stays(run, conversions, tmp_path):
    run.deepspeed("global_step2")
    write_model(tmp_path / "out" / "global_step2")
    with pytest.raises(UserError, match="global_step2: there already, and not made by this command"):
        materialise(find(run.path)[0], tmp_path / "out")
    assert (tmp_path / "out" / "global_step2" / "model.safetensors").is_file() and not conversions
