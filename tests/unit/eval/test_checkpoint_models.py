"""Finding a run's checkpoints, whole and damaged. The files are stand-ins."""

from __future__ import annotations

import zipfile

import pytest
from run_folder import RunFolder, cut_short, ignore, labels, write_model, zero

from eval.checkpoint_models import find
from eval.converted_models import materialise
from eval.selection import select
from openrlhf_mel.errors import UserError
from openrlhf_mel.run import checkpoint

pytestmark = pytest.mark.timeout(60)


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
