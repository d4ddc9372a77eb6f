"""Near copies: all pairs that plain difflib finds are found, with its similarity."""

import random
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contamination import Pair, near_pairs, similarity, tokens

TEXT = st.lists(st.sampled_from(["find", "the", "x", "y", "+", "=", "12", "3", "数", "!"]), max_size=14).map(" ".join)


def test_tokens():
    assert tokens("Find $x^2+y$, a\\cdot 12!") == ["find", "x", "^", "2", "+", "y", "a", "cdot", "12"]


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=6), st.sampled_from([0.3, 0.5, 0.75, 0.9, 1.0]))
def test_all_pairs_that_difflib_finds_and_no_others(queries, texts, least):
    found = {(pair.query, pair.text) for pair in near_pairs(queries, texts, least)}
    for i, query in enumerate(queries):
        for j, text in enumerate(texts):
            a, b = tokens(query), tokens(text)
            ratios = [
                SequenceMatcher(None, *ab, autojunk=junk).ratio() for ab in ((a, b), (b, a)) for junk in (True, False)
            ]
            # no text is near an empty one
            assert ((i, j) in found) == (bool(a and b) and max(ratios) >= least)


def test_equal_tokens_are_similarity_one():
    pairs = near_pairs(["Find $x+1$."], ["find x + 1", "find x - 1"], 0.75)
    assert pairs[0] == Pair(0, 0, 1.0)
    assert pairs[1].similarity == pytest.approx(0.75)


def test_the_larger_of_both_directions_counts():
    first, second = list("abcdabx"), list("xabcabd")
    both = [SequenceMatcher(None, *pair).ratio() for pair in ((first, second), (second, first))]
    assert similarity(first, second) == similarity(second, first) == max(both)


def test_order_and_progress():
    texts = [f"number {i} of many words in a row" for i in range(2500)]
    steps = []
    pairs = near_pairs(
        ["number 7 of many words in a row", "number 2400 of many words in a row"], texts, 1.0, steps.append
    )
    assert [(pair.query, pair.text) for pair in pairs] == [(0, 7), (1, 2400)]
    assert sum(steps) == 2500


def test_nothing_to_compare():
    assert near_pairs([], ["a"], 0.75) == near_pairs(["a"], [], 0.75) == []


def test_difflibs_heuristic_for_long_texts_counts_neither_way():
    """By default difflib ignores frequent tokens in texts of 200 tokens or more: either way can give more."""
    rng = random.Random(0)
    more = set()
    for _ in range(300):
        first = [rng.choice(["a", "b", "c", *(f"w{i}" for i in range(60))]) for _ in range(210)]
        second = [token for token in first if rng.random() < 0.9]
        rng.shuffle(second[:60])
        second = second[30:] + second[:30] + first[:40]
        ratios = {
            junk: max(
                SequenceMatcher(None, *pair, autojunk=junk).ratio() for pair in ((first, second), (second, first))
            )
            for junk in (True, False)
        }
        if sum(first.count(token) * second.count(token) for token in set(first)) <= 50_000:
            assert similarity(first, second) == max(ratios.values())
            more |= {ratios[True] > ratios[False], ratios[False] > ratios[True] and "without"}
    assert {True, "without"} <= more


@pytest.mark.timeout(60)
def test_texts_that_difflib_takes_minutes_for():
    """For these an upper bound replaces difflib's ratio, so no near text is missed."""
    first = ["0", "1"] * 4000
    second = ["0", "1", "1"] * 2700
    assert similarity(first, first) == 1
    assert 0.75 < similarity(first, second) < 1
    [pair] = near_pairs([" ".join(first)], [" ".join(first[:-100])], 0.9)
    assert pair.similarity > 0.99


def test_the_bound_is_not_cut_by_rounding():
    """0.9 has no exact float32."""
    first = [str(i) for i in range(20)]
    second = [str(i) for i in range(18)] + ["x", "y"]
    assert similarity(first, second) == 0.9
    assert near_pairs([" ".join(first)], [" ".join(second)], 0.9) == [Pair(0, 0, 0.9)]
