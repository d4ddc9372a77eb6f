"""Choosing among a run's checkpoints: `--checkpoints`."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from run_folder import cut_short, ignore, labels

from eval.checkpoint_models import CheckpointModel, find
from eval.selection import select
from eval.training_run import Run
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)


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
