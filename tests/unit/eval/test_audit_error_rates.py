"""eval/auditing/error_rates.py: intervals compared with exact ones, and how often they hold planted errors."""

import numpy as np
import pytest
from scipy import stats

from eval.auditing.error_rates import ClassCount, accuracy_change, error_rate

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("judged", [1, 3, 25])
def test_a_single_class_has_at_least_the_interval_of_clopper_and_pearson(judged):
    for found in range(judged + 1):
        exact = stats.binomtest(found, judged).proportion_ci(method="exact")
        low, high = error_rate([ClassCount(1000, judged, found)]).interval
        assert 0 <= low <= exact.low + 1e-12 and exact.high - 1e-12 <= high <= 1
        assert found not in (0, judged) or (low, high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_equal_classes_with_few_errors_have_the_limit_of_one_large_class():
    """Where the counts are small, their sum's exact Poisson limit is known (Fay and Feuer)."""
    low, _ = error_rate([ClassCount(1000, 200, 1)] * 2 + [ClassCount(1000, 200, 0)] * 3).interval
    poisson = stats.chi2.ppf(0.025, 2 * 2) / 2
    assert low == pytest.approx(poisson / 1000, rel=0.03)


def test_a_large_class_without_an_error_has_the_rule_of_three_times_a_bit():
    low, high = error_rate([ClassCount(100_000, 25, 0)]).interval
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 25))


def test_a_class_that_is_judged_whole_has_no_uncertainty():
    found = error_rate([ClassCount(10, 10, 3), ClassCount(30, 30, 0)])
    assert found.value == pytest.approx(3 / 40) and found.interval == pytest.approx((3 / 40, 3 / 40))


def test_an_unsure_response_widens_the_interval_both_ways():
    sure, unsure, as_error = (error_rate([ClassCount(200, 20, *found)]) for found in ((2, 0), (2, 3), (5, 0)))
    assert unsure.value == pytest.approx(3.5 / 20)
    assert unsure.interval == (sure.interval[0], as_error.interval[1])


def test_rates_are_weighted_by_the_classes_sizes():
    counts = [ClassCount(900, 30, 0), ClassCount(100, 20, 10)]
    found = error_rate(counts)
    assert found.value == pytest.approx(0.1 * 0.5)
    assert 0.02 < found.interval[0] < 0.05 < found.interval[1] < 0.18
    change = accuracy_change(counts, [ClassCount(1000, 50, 5)])
    assert change.value == pytest.approx(-0.5 * 0.05 + 0.5 * 0.1)
    assert change.interval[0] < 0 < change.value < change.interval[1]


def test_nothing_is_said_about_a_class_that_nobody_has_judged():
    assert error_rate([ClassCount(10, 10, 1), ClassCount(5, 0, 0)]) is None and error_rate([]) is None
    assert accuracy_change([ClassCount(10, 5, 0)], [ClassCount(10, 0, 0)]) is None
    assert accuracy_change([ClassCount(10, 10, 1)], []).value == pytest.approx(-0.1)


@pytest.mark.parametrize("counts", [(5, 6, 0, 0), (5, 3, 2, 2), (5, 3, -1, 0), (0, 0, 0, 0), (5, 2, 3, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected"):
        ClassCount(*counts)


LARGE = (40, 90, 150, 900), (3, 12, 60, 200, 80, 1500)  # responses of each class: accepted ones, rejected ones
SMALL = (30, 27, 28), (20, 36, 21)  # nearly all of them are judged
EQUAL = (700,) * 5, (2000,) * 6
SIMULATIONS = 1000


def simulate(dice, sizes, rates, per_class):
    """For each simulation the planted errors of each class, and those found in a random sample of it, (1000, classes)."""
    sizes = np.array(sizes)
    planted = dice.binomial(sizes, rates, (SIMULATIONS, len(sizes)))
    return planted, dice.hypergeometric(planted, sizes - planted, np.minimum(sizes, per_class))


def classes(sizes, found, per_class):
    return [ClassCount(n, min(n, per_class), int(errors)) for n, errors in zip(sizes, found, strict=True)]


def share_within(estimates, truths):
    inside = [e.interval[0] - 1e-9 <= truth <= e.interval[1] + 1e-9 for e, truth in zip(estimates, truths, strict=True)]
    return np.mean(inside)


@pytest.mark.parametrize(
    "sizes, accepted, rejected",
    [
        (LARGE, 0.0, 0.0),
        (LARGE, (0.02, 0.01, 0.005, 0.001), (0.2, 0.1, 0.05, 0.02, 0.01, 0.0007)),
        (LARGE, (0.3, 0.1, 0.02, 0.003), (0.5, 0.5, 0.3, 0.1, 0.1, 0.002)),
        (LARGE, 0.05, 0.05),
        (LARGE, (0.0, 0.0, 0.0, 0.04), (0.0, 0.0, 0.0, 0.0, 0.0, 0.04)),
        (LARGE, (0.6, 0.4, 0.3, 0.1), (0.9, 0.8, 0.6, 0.4, 0.3, 0.1)),
        (LARGE, (0.9, 0.97, 0.99, 0.999), (1.0, 0.9, 0.99, 0.97, 0.95, 0.99)),
        (SMALL, 0.04, (0.05, 0.03, 0.05)),
        (EQUAL, 0.005, 0.005),
        (EQUAL, 0.02, 0.1),
    ],
)
@pytest.mark.parametrize("per_class", [10, 25])
def test_intervals_hold_planted_errors(sizes, accepted, rejected, per_class):
    """At least 93% of 1,000 simulations, for false positives, false negatives and the change of the accuracy."""
    dice = np.random.default_rng(7)
    wrongly_accepted, found_positive = simulate(dice, sizes[0], accepted, per_class)
    wrongly_rejected, found_negative = simulate(dice, sizes[1], rejected, per_class)
    pairs = [
        (classes(sizes[0], first, per_class), classes(sizes[1], second, per_class))
        for first, second in zip(found_positive, found_negative, strict=True)
    ]
    positives, negatives = wrongly_accepted.sum(axis=1), wrongly_rejected.sum(axis=1)
    changes = (negatives - positives) / (sum(sizes[0]) + sum(sizes[1]))
    held = {
        "false positives": share_within([error_rate(first) for first, _ in pairs], positives / sum(sizes[0])),
        "false negatives": share_within([error_rate(second) for _, second in pairs], negatives / sum(sizes[1])),
        "accuracy": share_within([accuracy_change(*pair) for pair in pairs], changes),
    }
    assert min(held.values()) >= 0.93, held


def test_two_classes_give_a_shorter_interval_than_one():
    """Coverage alone would also be had with intervals from 0 to 1."""
    low, high = error_rate([ClassCount(500, 25, 1), ClassCount(500, 25, 1)]).interval
    alone = error_rate([ClassCount(1000, 25, 1)]).interval
    assert high - low < alone[1] - alone[0] < 0.21
