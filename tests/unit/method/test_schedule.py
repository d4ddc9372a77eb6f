"""schedule.py, checked by figures computed by hand and by properties."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from openrlhf_mel.errors import UserError
from openrlhf_mel.method.schedule import nll_coefficient
from openrlhf_mel.settings.mel_options import MELConfig

COEFFICIENTS = st.floats(0, 100, allow_subnormal=False)  # those have few digits, down to one
DECAYING = st.sampled_from(["linear", "cosine"])
ANY = st.sampled_from(["constant", "linear", "cosine"])
CLOSE = {"rel": 1e-12, "abs": 1e-12}


@st.composite
def schedules(draw, names=ANY):
    """Draw a configuration, its run's length, and the coefficients of all steps to well past the end."""
    steps, warmup = draw(st.integers(1, 60)), draw(st.integers(0, 20))
    config = MELConfig(
        nll_coef=draw(COEFFICIENTS),
        nll_schedule=draw(names),
        nll_warmup_steps=warmup,
        nll_end_coef=draw(COEFFICIENTS),
        nll_end_step=draw(st.none() | st.integers(warmup + 2, 80)),
    )
    end = config.nll_end_step or steps
    return config, steps, end, [nll_coefficient(config, step, steps) for step in range(1, 101)]


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 0.8, 0.6, 0.4, 0.2, 0.2]),
        ("cosine", [0.25, 0.5, 0.75, 1, 0.8828427124746190, 0.6, 0.3171572875253810, 0.2, 0.2]),
    ],
)
def test_by_hand(schedule, values):
    config = MELConfig(nll_schedule=schedule, nll_warmup_steps=3, nll_end_coef=0.2, nll_end_step=8)
    assert [nll_coefficient(config, step, 100) for step in range(1, 10)] == pytest.approx(values, **CLOSE)
    left_out = MELConfig(nll_schedule=schedule, nll_warmup_steps=3, nll_end_coef=0.2)
    assert [nll_coefficient(left_out, step, 8) for step in range(1, 10)] == pytest.approx(values, **CLOSE)


def test_the_default_is_the_papers():
    assert {nll_coefficient(MELConfig(), step, 140) for step in range(1, 200)} == {1.0}


@given(schedules())
def test_lies_between_nothing_and_the_larger_coefficient(case):
    config, _, _, values = case
    largest = max(config.nll_coef, config.nll_end_coef if config.nll_schedule != "constant" else 0)
    assert all(0 <= value <= largest * (1 + 1e-12) for value in values)


@given(schedules())
def test_the_warm_up_is_a_straight_line_from_nothing_that_meets_the_schedule(case):
    config, _, end, values = case
    warmup = config.nll_warmup_steps
    assume(config.nll_schedule == "constant" or end > warmup + 1)
    line = [0.0, *values[: warmup + 1]]
    rise = config.nll_coef / (warmup + 1)
    assert [b - a for a, b in pairwise(line)] == pytest.approx([rise] * (warmup + 1), rel=1e-9, abs=1e-12)
    assert line[-1] == config.nll_coef


@given(schedules(st.just("constant")))
def test_constant_is_constant_after_the_warm_up(case):
    config, _, _, values = case
    assert set(values[config.nll_warmup_steps :]) == {config.nll_coef}


@given(schedules(DECAYING))
def test_ends_exactly_and_stays_there(case):
    config, _, end, values = case
    assert set(values[max(end - 1, config.nll_warmup_steps) :]) == {config.nll_end_coef}


@given(schedules(DECAYING))
def test_is_monotone_after_the_warm_up_and_keeps_to_the_closed_form(case):
    config, _, end, values = case
    start = config.nll_warmup_steps + 1
    assume(end > start)
    c, e = config.nll_coef, config.nll_end_coef
    sign = 1 if e >= c else -1
    for a, b in pairwise(values[start - 1 :]):
        assert sign * (b - a) >= -1e-12 * max(c, e)
    for step in range(start, end + 1):
        t = (step - start) / (end - start)
        expected = c + (e - c) * t if config.nll_schedule == "linear" else e + (c - e) * math.cos(math.pi * t / 2) ** 2
        assert values[step - 1] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(schedules())
def test_a_run_that_is_shorter_than_its_warm_up_is_in_it_throughout(case):
    config, steps, _, values = case
    for step in range(1, min(steps, config.nll_warmup_steps) + 1):
        assert values[step - 1] == pytest.approx(config.nll_coef * step / (config.nll_warmup_steps + 1), **CLOSE)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_an_end_that_leaves_no_step_at_full_is_refused(schedule):
    for end in (4, 6):
        with pytest.raises(UserError, match=rf"--mel\.nll_end_step: found {end}, expected more than 6, .*steps 5"):
            MELConfig(nll_schedule=schedule, nll_warmup_steps=5, nll_end_step=end)
    MELConfig(nll_schedule=schedule, nll_warmup_steps=5, nll_end_step=7)


def test_the_end_says_nothing_of_a_constant_schedule():
    config = MELConfig(nll_coef=0.5, nll_end_coef=0.1, nll_warmup_steps=5, nll_end_step=3)
    assert nll_coefficient(config, 9, 9) == 0.5
