"""eval/metrics.py against enumeration, figures worked out by hand and properties."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from eval import metrics

MATRICES = arrays(np.int8, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 1))
SEVERAL = arrays(np.int8, st.tuples(st.integers(2, 8), st.integers(1, 6)), elements=st.integers(0, 1))


def enumerated_pass_at_k(correct: np.ndarray, k: int) -> float:
    """The share, over questions and over all subsets of k samples, of subsets with a right one."""
    hits = [any(subset) for row in correct.tolist() for subset in combinations(row, k)]
    return sum(hits) / len(hits)


@given(MATRICES, st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(correct, data):
    k = data.draw(st.integers(1, correct.shape[1]))
    assert metrics.pass_at_k(correct, k) == pytest.approx(enumerated_pass_at_k(correct, k), abs=1e-12)


@given(MATRICES)
def test_pass_at_1_is_avg_and_pass_never_falls_with_k(correct):
    passes = [metrics.pass_at_k(correct, k) for k in range(1, correct.shape[1] + 1)]
    assert passes[0] == pytest.approx(metrics.avg_at_n(correct))
    assert all(b >= a - 1e-12 for a, b in pairwise(passes))
    assert passes[-1] == pytest.approx(correct.any(axis=1).mean())


@given(MATRICES, st.randoms(use_true_random=False))
def test_the_order_of_questions_and_of_samples_does_not_matter(correct, rng):
    rows = [rng.sample(row, len(row)) for row in correct.tolist()]
    rng.shuffle(rows)
    assert metrics.avg_at_n(rows) == pytest.approx(metrics.avg_at_n(correct))
    assert metrics.pass_at_k(rows, correct.shape[1]) == pytest.approx(metrics.pass_at_k(correct, correct.shape[1]))


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range_names_k_and_n(k):
    with pytest.raises(ValueError, match=rf"k = {k} with n = 3"):
        metrics.pass_at_k([[1, 0, 1]], k)


def test_large_n_stays_exact():
    correct = np.zeros((1, 400), dtype=int)
    correct[0, 0] = 1
    assert metrics.pass_at_k(correct, 100) == pytest.approx(0.25)


def test_t_interval_by_hand():
    # Mean 0.5, s = sqrt(1/6), t(0.975, df 3) = 3.182446; reach 3.182446 * sqrt(1/6) / 2 = 0.649614.
    low, high = metrics.mean_interval([0.0, 0.5, 0.5, 1.0])
    assert (low, high) == pytest.approx((0.5 - 0.649614, 0.5 + 0.649614), abs=1e-6)


def test_avg_estimate_is_over_question_means_and_cut_to_shares():
    estimate = metrics.avg_estimate([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert estimate.value == 0.5
    assert estimate.interval == (0.0, 1.0)


def test_wilson_interval_by_hand():
    # 10 of 20, z = 1.959964: (0.5 + z^2/40) / (1 + z^2/20) -+ ... = 0.299298, 0.700702.
    assert metrics.wilson_interval(10, 20) == pytest.approx((0.299298, 0.700702), abs=1e-6)
    # 0 of 10: the upper end is z^2 / (10 + z^2) = 0.277533.
    assert metrics.wilson_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)


@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_the_share_and_mirrors(total, data):
    right = data.draw(st.integers(0, total))
    low, high = metrics.wilson_interval(right, total)
    assert low >= -1e-15 and low <= right / total <= high and high <= 1 + 1e-15
    assert metrics.wilson_interval(total - right, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_paired_difference_by_hand():
    # Gains by question: 0.5, 0, 0.5, 1: the values of the t-interval above.
    after = [[1, 1], [1, 0], [1, 0], [1, 1]]
    before = [[0, 1], [0, 1], [0, 0], [0, 0]]
    difference = metrics.paired_difference(after, before)
    assert difference.value == 0.5
    assert difference.interval == pytest.approx((0.5 - 0.649614, 0.5 + 0.649614), abs=1e-6)


@given(SEVERAL)
def test_a_checkpoint_does_not_differ_from_itself(correct):
    assert metrics.paired_difference(correct, correct) == metrics.Estimate(0.0, (0.0, 0.0))


@given(SEVERAL, st.randoms(use_true_random=False))
def test_swapping_checkpoints_mirrors_the_difference(correct, rng):
    other = [rng.choices((0, 1), k=3) for _ in correct]
    ahead, behind = metrics.paired_difference(correct, other), metrics.paired_difference(other, correct)
    assert ahead.value == pytest.approx(-behind.value)
    assert ahead.interval == pytest.approx((-behind.interval[1], -behind.interval[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.avg_at_n([1, 0]), r"shape \(2,\)"),
        (lambda: metrics.avg_at_n(np.zeros((0, 3))), r"shape \(0, 3\)"),
        (lambda: metrics.avg_at_n([[0.5]]), "other than 0 and 1"),
        (lambda: metrics.avg_at_n([[float("nan")]]), "other than 0 and 1"),
        (lambda: metrics.mean_interval([1.0]), "at least 2"),
        (lambda: metrics.wilson_interval(3, 2), "3 right of 2"),
        (lambda: metrics.wilson_interval(0, 0), "0 right of 0"),
        (lambda: metrics.paired_difference([[1], [0]], [[1]]), "2 and 1 questions"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
