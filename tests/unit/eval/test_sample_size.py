"""eval/sample_size.py: the n that it names reaches the power that it promises, in simulated evaluations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.power import MEANS, PAPER, SCENARIOS, Scenario, differs, populations
from eval import estimators
from eval.sample_size import detectable, power, samples_needed, variance_parts
from eval.variances import Variances, not_negative

pytestmark = pytest.mark.timeout(60)
REPEATS = 2000


def reached(scenario: Scenario, n: int) -> float:
    """The share of simulated evaluations that find the difference."""
    rng = np.random.default_rng(0)
    gains = [own.gains(rng, n, REPEATS) for own in populations(scenario)]
    decisions = differs(gains)
    for number in range(40):  # the simulation's test is that of eval.compare
        parts = [estimators.gains_estimate(own[number]) for own in gains]
        low, high = estimators.macro_average(parts).interval
        assert decisions[number] == (not low <= 0 <= high)
    return float(decisions.mean())


def needed(scenario: Scenario, chance: float) -> tuple[list[Variances], int]:
    parts = [own.variances for own in populations(scenario)]
    n = samples_needed(parts, scenario.difference, chance)
    assert n is not None
    return parts, n


def test_the_papers_benchmarks_reach_their_power():
    scenario = Scenario(PAPER, MEANS, 0.01, 0.01)
    _, n = needed(scenario, 0.8)
    assert n > 30  # one sample more or less moves the power by less than the margin
    assert reached(scenario, n) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("models", [1, 2])
def test_a_pilots_own_variances_give_the_n(models):
    """As eval.power: from samples of one or both models, 16 a question, of benchmarks that are large enough for it."""
    scenario = Scenario((2500, 1500), (0.4, 0.6), 0.006, 0.05)
    rng = np.random.default_rng(2)
    parts = []
    for own in populations(scenario):
        ours, theirs = own.pilot(rng, 16)
        # The true correlation, as a user may know it: the differences vary by 2 (1 - R) times as much as the accuracies.
        correlation = 1 - own.variances.between / (2 * np.var(own.theirs))
        parts.append(Variances.of_two(ours, theirs) if models == 2 else Variances.of_one(theirs, correlation))
    parts = not_negative(parts)
    n = samples_needed(parts, scenario.difference, 0.8)
    assert n is not None and n > 10
    assert reached(scenario, n) == pytest.approx(0.8, abs=0.03)


@pytest.mark.release
@pytest.mark.timeout(600)
@pytest.mark.parametrize("chance", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_other_benchmarks_reach_their_power(scenario, chance):
    parts, n = needed(scenario, chance)
    promised = power(parts, n, scenario.difference)  # of few samples more than was asked for
    assert promised >= chance
    # A difference that questions of middle difficulty make is found more often: there the samples vary most as well.
    assert promised - 0.03 <= reached(scenario, n) <= promised + (0.05 if scenario.log_odds else 0.03)


@pytest.mark.release
@pytest.mark.timeout(600)
def test_the_p_value_has_the_same_power():
    """eval.compare also gives p from sign flips of the questions' gains, each with its share of its benchmark."""
    scenario = Scenario((40, 40), (0.4, 0.6), 0.06, 0.05)
    _, n = needed(scenario, 0.8)
    rng = np.random.default_rng(0)
    gains = np.concatenate([own.gains(rng, n, REPEATS) / own.size for own in populations(scenario)], axis=1)
    share = np.mean([estimators.sign_flip_p_value(own) < 0.05 for own in gains])
    assert share == pytest.approx(0.8, abs=0.03)


def test_many_questions_need_the_textbooks_number():
    """n = within / (questions (difference / (z + z'))^2 - between), with z of 5% and of 80% (Miller 2024)."""
    questions, within, between, difference = 10**6, 0.3, 0.02, 0.0005
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    expected = within / (questions * (difference / z) ** 2 - between)
    assert samples_needed([Variances(questions, within, between)], difference, 0.8) == math.ceil(expected)


def test_one_sample_each_is_a_t_test():
    """Power of the paired t-test of 30 differences at 0.5 standard deviations: 0.754 (statsmodels, TTestPower)."""
    assert power([Variances(30, 0.04, 0.0)], 1, 0.1) == pytest.approx(0.7540, abs=5e-4)


BENCHMARKS = st.lists(
    st.builds(Variances, st.integers(5, 1000), st.floats(0.001, 0.5), st.just(0.0) | st.floats(1e-4, 0.1)),
    min_size=1,
    max_size=4,
)


@given(BENCHMARKS, st.floats(0.005, 0.5), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_n_is_the_first_that_is_enough(parts, difference, chance):
    n = samples_needed(parts, difference, chance)
    if n is None:
        assert power(parts, math.inf, difference) <= chance
        assert detectable(parts, math.inf, chance) >= difference * (1 - 1e-6)
        return
    assert power(parts, n, difference) >= chance
    assert n == 1 or power(parts, n - 1, difference) < chance
    assert detectable(parts, n, chance) <= difference * (1 + 1e-6)


@given(BENCHMARKS, st.integers(1, 200))
def test_more_samples_show_smaller_differences_down_to_the_floor(parts, n):
    shown = [detectable(parts, count, 0.8) for count in (n, 2 * n, math.inf)]
    assert shown[0] > shown[1] > shown[2] >= 0
    assert (shown[2] == 0) == all(part.between == 0 for part in parts)


@given(BENCHMARKS, st.integers(1, 100))
def test_the_parts_make_the_tables_variance(parts, n):
    within, between = variance_parts(parts)
    whole = sum((part.within / n + part.between) / part.questions for part in parts) / len(parts) ** 2
    assert within / n + between == pytest.approx(whole)


def test_without_variance_any_difference_is_found():
    assert power([Variances(10, 0.0, 0.0)], 1, 0.01) == 1.0
    assert samples_needed([Variances(10, 0.0, 0.0)], 0.01, 0.8) == 1
    assert detectable([Variances(10, 0.0, 0.0)], 4, 0.8) == 0.0
