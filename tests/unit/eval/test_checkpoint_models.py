"""A run's checkpoints: finding, choosing, and the folder of converted models. The files are stand-ins."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from safetensors.numpy import save_file

from eval import checkpoint_models, conversion
from eval.checkpoint_models import CheckpointModel, find, materialise, materialised, select
from eval.training_run import Run, read_run
from openrlhf_mel.errors import UserError
from openrlhf_mel.run import checkpoint

pytestmark = pytest.mark.timeout(60)
CONFIG = {
    "actor.model_name_or_path": "base",
    "actor.num_nodes": 1,
    "actor.num_gpus_per_node": 2,
    "ds.zero_stage": 2,
    "ds.lora.rank": 0,
}


class RunFolder:
    """Builds a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.actor = path / "checkpoints" / "_actor"
        self.actor.mkdir(parents=True)
        self.config(**CONFIG, **{"mel.run_dir": str(path)})
        self.steps(1, 2, 3)

    def config(self, **values: object) -> None:
        old = json.loads((self.path / "manifest.json").read_text())["config"] if self.manifest.exists() else {}
        self.manifest.write_text(json.dumps({"config": old | values}))

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    def steps(self, *steps: int) -> None:
        (self.path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in steps))

    def deepspeed(self, tag: str, stage: int = 2, ranks: int = 2, sealed: bool = True) -> Path:
        folder = self.actor / f"{tag}{checkpoint.PARTIAL}"
        folder.mkdir()
        states = [f"zero_pp_rank_{rank}_" for rank in range(ranks)] if stage == 3 else [""]
        for name in [f"{state}mp_rank_00_model_states.pt" for state in states] + [
            f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)
        ]:
            with zipfile.ZipFile(folder / name, "w") as file:
                file.writestr("data.pkl", b"x" * 500)
        (folder / "metric.json").write_text("{}")
        (self.actor / "latest").write_text(tag)
        return checkpoint.seal(folder, ranks, None, None) if sealed else folder.rename(self.actor / tag)

    def export(self, name: str) -> Path:
        folder = self.path / name
        write_model(folder)
        return folder


def write_model(folder: Path, stem: str = "model") -> None:
    folder.mkdir(parents=True)
    save_file({"w": np.zeros(4, np.float32)}, folder / f"{stem}.safetensors")
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def zero(path: Path) -> None:
    """Overwrite the file's start with zeros, like a file system that lost a block."""
    with open(path, "r+b") as file:
        file.write(bytes(20))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def labels(found: list[CheckpointModel]) -> list[str]:
    return [c.label for c in found]


def ignore(_: str) -> None: ...


# --- found ---------------------------------------------------------------------------------------------------------


def test_in_the_order_of_steps_and_the_final_model_last(run):
    for tag in ("global_step10", "global_step2", "best_global_step2", "global_step9"):
        run.deepspeed(tag)
    (run.actor / "something_else").mkdir()
    (run.path / "checkpoints" / "_critic" / "global_step2").mkdir(parents=True)
    run.export("model")
    run.steps(1, 11)
    found = find(run.path)
    assert [(c.label, c.step, c.kind, c.problem) for c in found] == [
        ("global_step2", 2, "deepspeed", None),
        ("best_global_step2", 2, "deepspeed", None),
        ("global_step9", 9, "deepspeed", None),
        ("global_step10", 10, "deepspeed", None),
        ("model", 11, "model", None),
    ]
    assert found[0].source == run.actor / "global_step2" and found[-1].source == run.path / "model"


def test_an_export_takes_the_place_of_its_deepspeed_checkpoint(run):
    run.deepspeed("global_step2")
    run.deepspeed("global_step4")
    run.export("checkpoints/global_step2_hf")
    cut_short(run.export("checkpoints/global_step4_hf") / "model.safetensors")
    run.export("checkpoints/global_step6_hf")  # ckpt.disable_ds
    assert [(c.label, c.kind, c.problem) for c in find(run.path)] == [
        ("global_step2", "model", None),
        ("global_step4", "deepspeed", None),
        ("global_step6", "model", None),
    ]


def test_a_lora_export_is_an_adapter(run):
    write_model(run.path / "model", stem="adapter_model")
    (run.path / "model" / "adapter_config.json").write_text("{}")
    assert [(c.label, c.kind, c.problem) for c in find(run.path)] == [("model", "adapter", None)]
    (run.path / "model" / "adapter_model.safetensors").unlink()
    with zipfile.ZipFile(run.path / "model" / "adapter_model.bin", "w") as file:  # as under ZeRO-3
        file.writestr("data.pkl", b"")
    assert find(run.path)[0].problem is None


def test_a_run_that_was_moved(run, tmp_path):
    run.deepspeed("global_step2")
    run.export("model")
    run.config(**{"ckpt.path": f"{run.path}/checkpoints", "ckpt.output_dir": f"{run.path}/model.partial"})
    run.path.rename(tmp_path / "moved")
    assert labels(find(tmp_path / "moved")) == ["global_step2", "model"]


def test_folders_that_the_configuration_names(run, tmp_path):
    write_model(tmp_path / "elsewhere" / "final")
    run.actor.parent.rename(tmp_path / "saved")
    (tmp_path / "saved" / "_actor" / "latest").write_text("global_step2")
    run.actor = tmp_path / "saved" / "_actor"
    run.deepspeed("global_step2")
    run.config(
        **{"ckpt.path": str(tmp_path / "saved"), "ckpt.output_dir": str(tmp_path / "elsewhere" / "final")},
    )
    assert [c.source for c in find(run.path)] == [run.actor / "global_step2", tmp_path / "elsewhere" / "final"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda run: (run.actor / "global_step4" / checkpoint.SEAL).unlink(),
            "global_step4/sealed.json is missing: its save was not finished",
        ),
        (
            lambda run: (run.actor / "global_step4" / checkpoint.SEAL).write_text("[]"),
            "global_step4/sealed.json is damaged",
        ),
        (lambda run: (run.actor / "global_step4" / "metric.json").unlink(), "global_step4 lacks metric.json"),
        (
            lambda run: (run.actor / "global_step4" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink(),
            "global_step4 lacks bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        ),
        (
            lambda run: (run.actor / "global_step4" / "mp_rank_00_model_states.pt").unlink(),
            "global_step4 lacks mp_rank_00_model_states.pt",
        ),
        (
            lambda run: cut_short(run.actor / "global_step4" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt is cut short or damaged",
        ),
        (
            lambda run: zero(run.actor / "global_step4" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt is cut short or damaged",
        ),
        (
            lambda run: (run.actor / "global_step4" / "mp_rank_01_model_states.pt").touch(),
            "split by tensor parallelism",
        ),
    ],
)
def test_a_damaged_deepspeed_checkpoint(run, damage, said, tmp_path):
    run.deepspeed("global_step4")
    run.deepspeed("global_step6")
    run.export("model")
    damage(run)
    found = find(run.path)
    assert said in found[0].problem
    lines: list[str] = []
    assert "global_step4" not in labels(select(found, "all", lines.append))
    assert lines[0].startswith("warning: checkpoint global_step4 is left out: ") and said in lines[0]
    with pytest.raises(UserError) as error:
        select(found, "4")
    assert "--checkpoints 4: not whole; global_step4" in str(error.value) and said in str(error.value)
    with pytest.raises(UserError, match="checkpoint global_step4"):
        materialise(found[0], tmp_path / "out")


def test_an_unsealed_one_is_refused_though_all_its_files_are_there(run, tmp_path):
    """Training, too, resumes only from a sealed one (`openrlhf_mel.run.checkpoint`)."""
    run.deepspeed("global_step2", sealed=False)
    [found] = find(run.path)
    assert checkpoint.find(run.actor) == []
    said = r"global_step2: .*global_step2/sealed\.json is missing: its save was not finished"
    for text in ("2", "last", "all"):
        with pytest.raises(UserError, match=said):
            select([found], text, ignore)
    with pytest.raises(UserError, match=said):
        materialise(found, tmp_path / "out")


def test_what_the_seal_does_not_name_does_not_count(run):
    run.deepspeed("global_step2")
    (run.actor / "latest").unlink()  # as if the folder was copied without it
    assert find(run.path)[0].problem is None


def test_missing_shards_of_stage_3_are_named(run):
    run.config(**{"ds.zero_stage": 3, "actor.num_nodes": 2})
    folder = run.deepspeed("global_step2", stage=3, ranks=4)
    assert find(run.path)[0].problem is None
    for rank in (1, 3):
        (folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").unlink()
    problem = find(run.path)[0].problem
    assert problem.endswith(
        "lacks zero_pp_rank_1_mp_rank_00_model_states.pt, zero_pp_rank_3_mp_rank_00_model_states.pt"
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda model: (model / "config.json").unlink(), "config.json is missing or damaged"),
        (lambda model: (model / "config.json").write_text("{"), "config.json is missing or damaged"),
        (lambda model: (model / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing or damaged"),
        (lambda model: (model / "model.safetensors").unlink(), "holds no weights"),
        (lambda model: cut_short(model / "model.safetensors"), "model.safetensors is cut short or damaged"),
        (
            lambda model: (model / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'
            ),
            "model-2.safetensors is missing",
        ),
        (
            lambda model: (model / "model.safetensors.index.json").write_text("[]"),
            "model.safetensors.index.json is damaged",
        ),
    ],
)
def test_a_damaged_final_model(run, damage, said):
    run.deepspeed("global_step3")
    damage(run.export("model"))
    found = find(run.path)
    assert said in found[-1].problem
    assert labels(select(found, "last", ignore)) == ["global_step3"]
    assert labels(select(found, "3")) == ["global_step3"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such folder; expected the mel.run_dir"),
        (lambda path: path.mkdir(), "no manifest.json of a training run in it; pass a model's own folder as --model"),
        (lambda path: RunFolder(path).manifest.write_text("[1]"), "no manifest.json of a training run"),
        (RunFolder, "holds no model and no checkpoint: the run has not finished.*ckpt.save_steps"),
    ],
)
def test_nothing_to_evaluate(tmp_path, make, said):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=rf"--run .*run: {said}"):
        find(tmp_path / "run")


def test_how_a_run_asked_its_questions(run):
    read = read_run(run.path)
    assert (read.chat, read.template, read.base) == (False, "default", "base")
    run.config(**{"data.apply_chat_template": True, "mel.template_dir": "/t"})
    assert (read_run(run.path).chat, read_run(run.path).template) == (True, "/t")
    run.config(**{"data.input_template": "Q: {}"})
    with pytest.raises(UserError, match=r"data\.input_template 'Q: \{\}'; write that into a file.*--template"):
        _ = read_run(run.path).template


# --- chosen --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(run):
    for tag in ("global_step2", "best_global_step2", "global_step4", "best_global_step5", "global_step6"):
        run.deepspeed(tag)
    run.export("model")
    run.steps(6)
    return find(run.path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ["global_step2", "global_step4", "best_global_step5", "model"]),
        ("last", ["model"]),
        ("best", ["best_global_step5"]),
        ("6", ["model"]),
        ("2", ["global_step2"]),
        ("5", ["best_global_step5"]),
        ("4,2", ["global_step2", "global_step4"]),
        (" 4 , 2,4,last,best", ["global_step2", "global_step4", "best_global_step5", "model"]),
    ],
)
def test_selected(saved, text, expected):
    assert labels(select(saved, text, ignore)) == expected


def test_all_says_what_it_evaluates_once(saved):
    lines: list[str] = []
    select(saved, "all", lines.append)
    assert lines == [
        "note: best_global_step2 is of the same step as global_step2, which is evaluated for both",
        "note: global_step6 is of the same step as model, which is evaluated for both",
    ]


@pytest.mark.parametrize("text", ["7", "0", "final", "", "2,,4", "-1", "1.0", "2;4", "²", "9" * 30])
def test_what_is_not_there_is_named_with_what_is(saved, text):
    with pytest.raises(UserError, match=r"--checkpoints.*there are: 2 \(global_step2\).*6 \(model\)"):
        select(saved, text)


def test_without_a_best_one_it_says_how_to_get_one(run):
    run.export("model")
    with pytest.raises(UserError, match=r"no best checkpoint.*ckpt\.best_metric_key.*validation split"):
        select(find(run.path), "best")


def test_a_damaged_best_one(run):
    cut_short(run.deepspeed("best_global_step2") / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match=r"--checkpoints best: not whole; best_global_step2.*cut short"):
        select(find(run.path), "best")
    run.export("checkpoints/best_global_step1_hf")
    assert labels(select(find(run.path), "best")) == ["best_global_step1"]


def test_none_whole(run, capsys):
    cut_short(run.deepspeed("global_step2") / "mp_rank_00_model_states.pt")
    for text in ("all", "last"):
        with pytest.raises(UserError, match=rf"--checkpoints {text}: none is whole; global_step2: .*cut short"):
            select(find(run.path), text)
        assert "warning: checkpoint global_step2 is left out" in capsys.readouterr().err


def test_moving_averages_are_not_compared_in_silence(run):
    run.config(**{"train.enable_ema": True})
    run.deepspeed("global_step2")
    run.export("model")
    lines: list[str] = []
    select(find(run.path), "all", lines.append)
    assert len(lines) == 1 and "moving average" in lines[0]
    select(find(run.path), "last", lines.append)
    assert len(lines) == 1


@hypothesis.given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.booleans()), min_size=1, unique_by=lambda t: t[:2]),
    st.data(),
)
def test_any_selection_is_whole_in_order_and_of_the_steps_asked_for(made, data):
    run = Run(Path("run"), {})
    found = sorted(
        (
            CheckpointModel(
                f"{'best_' * best}global_step{step}", step, Path("x"), "deepspeed", run, "gone" if bad else None
            )
            for best, step, bad in made
        ),
        key=lambda c: (c.step, c.best),
    )
    whole = {c.step for c in found if c.problem is None}
    if not whole:
        return
    every = select(found, "all", ignore)
    assert [c.step for c in every] == sorted(whole) and all(c.problem is None for c in every)
    steps = data.draw(st.lists(st.sampled_from(sorted(whole)), min_size=1))
    chosen = select(found, ",".join(map(str, steps)))
    assert [c.step for c in chosen] == sorted(set(steps)) and all(c in every for c in chosen)


# --- the folder of converted models --------------------------------------------------------------------------------


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
    assert path == out / "global_step2" and json.loads((path / checkpoint_models.MARKER).read_text())["step"] == 2
    assert materialise(find(run.path)[0], out) == path and len(conversions) == 1
    cut_short(path / "model.safetensors")
    materialise(find(run.path)[0], out)
    assert len(conversions) == 2 and find(run.path)[0].fingerprint() == find(run.path)[0].fingerprint()
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
