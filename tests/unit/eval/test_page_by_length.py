"""Accuracy by the length of responses: bins and intervals."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.page.by_length import Measured, accuracy_by_length, clustered_interval


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50), st.booleans()), min_size=1, max_size=400))
def test_every_response_is_in_one_bin(responses):
    bins = accuracy_by_length([Measured(q, size, 2 * size, right) for q, size, right in responses], tokens=True)
    assert sum(b.responses for b in bins) == len(responses)
    assert all(a.high < b.low for a, b in itertools.pairwise(bins)) and len(bins) <= 8
    for b in bins:
        inside = [right for _, size, right in responses if b.low <= size <= b.high]
        assert b.responses == len(inside) and b.accuracy == pytest.approx(sum(inside) / len(inside))
        assert 0 <= b.interval[0] <= b.accuracy <= b.interval[1] <= 1 and b.interval[0] < b.interval[1]


def test_responses_cut_at_the_limit_have_a_bin_of_their_own():
    bins = accuracy_by_length([Measured(i, 512 if i % 3 == 0 else i, 0, True) for i in range(300)], tokens=True)
    assert (bins[-1].low, bins[-1].high, bins[-1].responses) == (512, 512, 100)


def test_intervals_by_length_hold_the_truth():
    """Repeated copies of the responses do not change the interval."""
    dice = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        ease = dice.beta(1, 1.5, 60)
        of = dice.integers(0, 60, 150)  # questions have different numbers of responses
        low, high = clustered_interval((dice.random(150) < ease[of]).astype(float), of)
        hits += low <= 0.4 <= high
    assert 0.92 <= hits / 500 <= 0.98
    right = dice.random(40) < 0.3
    once, thrice = (clustered_interval(np.repeat(right, k).astype(float), np.repeat(np.arange(40), k)) for k in (1, 3))
    assert once == pytest.approx(thrice)
