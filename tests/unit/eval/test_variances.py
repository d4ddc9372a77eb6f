"""eval/variances.py: by hand, by exact enumeration, and unbiased over many pilots."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eval.variances import Variances, not_negative, sampling_variance

pytestmark = pytest.mark.timeout(60)
SAMPLES = arrays(np.int8, st.tuples(st.integers(2, 6), st.integers(2, 6)), elements=st.integers(0, 1))


def test_by_hand():
    # Shares 1/2, 1, 1/4: p (1 - p) = 1/4, 0, 3/16; their mean 7/48, times 4/3.
    ours = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]
    assert sampling_variance(ours) == pytest.approx(7 / 36)
    # Shares 0, 1/2, 1/2: 1/6, times 2.
    theirs = [[0, 0], [1, 0], [0, 1]]
    assert sampling_variance(theirs) == pytest.approx(1 / 3)
    # Gains 1/2, 1/2, -1/4: variance 3/16, less the noise 7/36/4 + 1/3/2, which is more.
    of_two = Variances.of_two(ours, theirs)
    assert of_two == Variances(3, pytest.approx(7 / 36 + 1 / 3), pytest.approx(3 / 16 - 7 / 144 - 1 / 6))
    assert not_negative([of_two]) == [Variances(3, of_two.within, 0.0)]
    # One model alone: shares' variance 7/48, less the noise 7/144.
    assert Variances.of_one(ours, 0.75) == Variances(3, pytest.approx(7 / 18), pytest.approx((7 / 48 - 7 / 144) / 2))


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_the_noise_is_unbiased(n, p):
    """The expectation over all outcomes of two questions' samples, of one of them at another chance."""
    chances = (p, 0.3)
    expected = 0.0
    for outcome in product(product((0, 1), repeat=n), repeat=2):
        likely = np.prod([[q if right else 1 - q for right in row] for q, row in zip(chances, outcome, strict=True)])
        expected += likely * sampling_variance(outcome)
    assert expected == pytest.approx(np.mean([q * (1 - q) for q in chances]))


def test_both_parts_are_unbiased_over_many_pilots():
    """True accuracies 0.2 to 0.8 and differences of variance 0.01: the mean of the estimates over 4,000 pilots."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        ours = rng.uniform(0.2, 0.8, 40)
        theirs = ours + rng.choice([-0.1, 0.1], 40)
        drawn = [(rng.random((40, n)) < p[:, None]).astype(int) for p, n in ((ours, 6), (theirs, 4))]
        one = Variances.of_two(*drawn)
        found.append((one.within, one.between))
    # E p (1 - p) is 0.22 for the one, and 0.01 less for the other.
    within, between = np.mean(found, axis=0)
    assert within == pytest.approx(0.43, abs=0.002)
    assert between == pytest.approx(0.01, abs=0.001)


@given(SAMPLES, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_a_model_does_not_differ_from_itself(correct, rng):
    rows = [rng.sample(row, len(row)) for row in correct.tolist()]
    assert sampling_variance(rows) == pytest.approx(sampling_variance(correct))
    assert Variances.of_two(correct, rows).between <= 0  # the same shares: only the noise of both is taken off
    assert Variances.of_one(correct, 1.0).between == 0


@given(SAMPLES, st.floats(0, 1), st.floats(0, 1))
def test_less_correlation_is_more_spread(correct, one, two):
    low, high = sorted((one, two))
    one, other = (not_negative([Variances.of_one(correct, correlation)])[0].between for correlation in (low, high))
    assert one >= other
    assert Variances.of_one(correct, low).within == 2 * sampling_variance(correct)


@given(st.lists(st.tuples(st.integers(2, 700), st.floats(-0.1, 0.1)), min_size=1, max_size=5))
def test_what_is_below_0_is_taken_off_the_others(found):
    before = [Variances(questions, 0.2, between) for questions, between in found]
    after = not_negative(before)
    sums = [sum(own.between / own.questions for own in parts) for parts in (before, after)]
    assert sums[1] == pytest.approx(max(0, sums[0]), abs=1e-12)
    assert all(0 <= new.between <= max(0, old.between) * (1 + 1e-9) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("correct", [[[1], [0]], [[1, 0]]])
def test_too_few_questions_or_samples_show_no_variance(correct):
    with pytest.raises(ValueError, match="expected at least 2 of both"):
        sampling_variance(correct)


def test_the_questions_have_to_be_the_same():
    with pytest.raises(ValueError, match="found 2 and 3 questions"):
        Variances.of_two([[1, 0]] * 2, [[1, 0]] * 3)
