"""Near copies: every pair that plain difflib finds, with its similarity."""

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
            # two texts without a token are equal, but nothing is near a question that says nothing
            if a or b:
                assert ((i, j) in found) == (max(ratios) >= least)


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


def test_long_texts_with_frequent_words():
    """difflib ignores words that make up more than 1% of a text of 200 words or more, unless it is told not to."""
    text = " ".join(f"the w{i}" for i in range(150))
    near = " ".join(f"the w{i}" for i in range(5, 155))
    [pair] = near_pairs([text], [near], 0.9)
    assert pair.similarity == pytest.approx(290 / 300)
