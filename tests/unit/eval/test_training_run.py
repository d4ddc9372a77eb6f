"""A training run's folder: how it asked its questions, and the paper's row to compare it with."""

import json
import shutil
from types import SimpleNamespace

import pytest

from eval import run as evaluation
from eval.training_run import read_run
from openrlhf_mel.errors import UserError

PAPERS = {
    "actor.model_name_or_path": "Qwen/Qwen3-4B-Base",
    "mel.algorithm": "grpo",
    "algo.advantage.estimator": "group_norm",
    "actor.policy_loss_type": "ppo",
    "actor.loss_agg_mode": "seq-mean-token-mean",
    "algo.kl.init_coef": 0.0,
}


def rows(folder, config):
    """Return the paper's rows for the targets of `eval.run --run`."""
    shutil.copytree("data/toy/model", folder / "model")
    (folder / "metrics.jsonl").write_text('{"step": 8}\n')
    (folder / "manifest.json").write_text(json.dumps({"config": config}))
    options = SimpleNamespace(
        run=folder, paper=None, output_dir=folder / "out", checkpoints="all", keep_models=False, model_date=None
    )
    return [target.paper and target.paper.key for target in evaluation._targets(options, read_run(folder))]


@pytest.mark.parametrize(("enable", "row"), [(True, "4B:mel"), (False, "4B:grpo")])
def test_the_papers_objective_has_the_papers_row(tmp_path, enable, row):
    assert rows(tmp_path / "run", PAPERS | {"mel.enable": enable}) == [row]


@pytest.mark.parametrize(
    "other",
    [
        {"mel.algorithm": "rloo"},
        {"actor.loss_agg_mode": "token-mean"},  # possible under grpo in runs of earlier versions
        {"actor.policy_loss_type": "gspo"},
        {"algo.kl.init_coef": 0.01},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_objective_has_none(tmp_path, other):
    assert rows(tmp_path / "run", PAPERS | {"mel.enable": False} | other) == [None]


def test_how_a_run_asked_its_questions(run):
    read = read_run(run.path)
    assert (read.chat, read.template, read.base) == (False, "default", "base")
    run.config(**{"data.apply_chat_template": True, "mel.template_dir": "/t"})
    assert (read_run(run.path).chat, read_run(run.path).template) == (True, "/t")
    run.config(**{"data.input_template": "Q: {}"})
    with pytest.raises(UserError, match=r"data\.input_template 'Q: \{\}'; write that into a file.*--template"):
        _ = read_run(run.path).template
