"""`--samples`, `--n` and `--metrics`: how many samples each benchmark gets."""

import pytest

from eval import sample_plan
from eval.identity import Draws
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(30)
SIZES = {"aime26": 30, "amc23": 40, "hmmt_feb26": 33, "odd": 41, "math500": 500}


def test_the_standard_gives_small_benchmarks_more():
    plan = sample_plan.plan("standard", None, None, SIZES)
    assert {name: own.n for name, own in plan.items()} == {
        "aime26": 32, "amc23": 32, "hmmt_feb26": 32, "odd": 16, "math500": 16,
    }  # fmt: skip
    assert all(own.greedy for own in plan.values()) and plan["odd"].metrics == ("pass@1", "avg@16", "pass@16", "maj@16")


@pytest.mark.parametrize(("preset", "n"), [(None, None), ("paper", None), (None, 8)])
def test_the_papers_is_the_default(preset, n):
    assert sample_plan.plan(preset, n, None, SIZES) == dict.fromkeys(SIZES, Draws.parse(8, None))


@pytest.mark.parametrize(
    ("preset", "n", "metrics", "message"),
    [
        ("paper", 8, None, r"--samples paper: sets the number of samples itself; leave out --n 8"),
        ("standard", 0, None, r"--samples standard: sets the number of samples itself; leave out --n 0"),
        ("standard", None, "pass@1", r"--samples standard: has an n of its own .* leave out --metrics"),
        (None, 4, "pass@8", r"--metrics pass@8: needs at least 8"),
        (None, 0, None, r"--n 0: expected at least 1"),
    ],
)
def test_flags_that_exclude_each_other(preset, n, metrics, message):
    with pytest.raises(UserError, match=message):
        sample_plan.plan(preset, n, metrics, {})


@pytest.mark.parametrize(
    "plan",
    [
        sample_plan.plan("standard", None, None, SIZES),
        sample_plan.plan(None, 4, "pass@4,pass@1", SIZES),
        sample_plan.plan(None, 4, "pass@1", SIZES),
    ],
)
def test_what_is_recorded_is_read(plan):
    assert sample_plan.read(sample_plan.recorded(plan), list(SIZES)) == plan


def test_one_n_is_recorded_as_it_has_always_been():
    assert sample_plan.recorded(sample_plan.plan(None, None, None, SIZES)) == {
        "n": 8, "metrics": ["pass@1", "avg@8", "pass@8", "maj@8"],
    }  # fmt: skip
