"""A checkpoint is chosen by a validation split: the evaluation data are checked before anything starts."""

import json

import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import inputs
from openrlhf_mel.settings.resolve import resolve

pytestmark = pytest.mark.timeout(120)
KEY = "--ckpt.best_metric_key=eval_held-out_pass1"


@pytest.fixture
def check(tmp_path):
    def run(*flags, train=("a", "b"), evaluation=("c", "d"), source="held-out"):
        for name, questions in (("train", train), ("eval", evaluation)):
            rows = [{"input": q, "label": "1", "datasource": source} for q in questions]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        sizes = ["--rollout.batch_size=2", "--rollout.n_samples_per_prompt=4", "--train.batch_size=8"]
        files = [f"--data.prompt_dataset={tmp_path}/train.jsonl", f"--eval.dataset={tmp_path}/eval.jsonl"]
        other = ["--actor.model_name_or_path=m", "--data.label_key=label", "--mel.runtime=cpu"]
        inputs.check_data(resolve(None, [*sizes, *files, *other, *flags]))

    return run


def test_a_validation_split_chooses(check):
    check("--eval.steps=5", KEY)
    check("--eval.steps=5", "--ckpt.best_metric_key=eval_held-out_pass4")
    check("--eval.steps=5", "--ckpt.best_metric_key=eval_default_pass1", source="default")


@pytest.mark.parametrize(
    ("message", "flags", "more"),
    [
        ("nothing is evaluated; give --eval.dataset", [KEY], {}),
        ("not among what is measured", ["--eval.steps=5", "--ckpt.best_metric_key=eval_default_pass1"], {}),
        ("expected one of eval_held-out_pass4, eval_held-out_pass1, or none", ["--eval.steps=5", KEY + "6"], {}),
        ("question 2 of", ["--eval.steps=5", KEY], {"evaluation": ("c", " b ")}),
        ("3 questions, of which OpenRLHF would evaluate the first 2", ["--data.max_samples=2"], {"evaluation": "cde"}),
    ],
)
def test_what_would_choose_by_something_else_is_refused(check, message, flags, more):
    with pytest.raises(UserError) as error:
        check(*flags, **more)
    assert message in str(error.value)


def test_without_a_choice_the_questions_may_be_the_same(check):
    check("--eval.steps=5", evaluation=("a", "b"))
