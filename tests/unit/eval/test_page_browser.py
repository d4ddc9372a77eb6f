"""The page's browser of samples: its data cannot leave their element, and have a largest size."""

import json

import pytest
from evaluation_folder import sample
from hypothesis import given
from hypothesis import strategies as st

from eval.messages import Question
from eval.page.browser import Browser, dump, shorten
from eval.store import Sample

ANY_TEXT = st.text(st.characters(codec=None))  # includes lone surrogates


@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=8))
def test_data_cannot_leave_its_element_and_comes_back(value):
    text = dump(value)
    assert "<" not in text and json.loads(text.encode().decode()) == value


@given(ANY_TEXT, st.lists(st.integers(2, 40), min_size=1, max_size=4))
def test_shortened_once_or_again_is_the_same(text, limits):
    cut = text
    for limit in limits:
        cut = shorten(cut, limit)
    smallest = min(limits)
    if len(text) <= smallest:
        assert cut == text
    else:
        head, left_out, tail = cut
        assert text.startswith(head) and text.endswith(tail) and head and tail
        assert len(head) + left_out + len(tail) == len(text) and len(head) + len(tail) <= smallest


@pytest.mark.parametrize("length", [3000, 100])
def test_the_page_has_a_largest_size(length):
    browser, largest = Browser(["m"], 2000, 200_000), 200_000
    for number in range(300):
        asked = Question("b", f"q{number}", "p" * 50, "2")
        rows = [Sample(**sample(asked.id, i, i == 0, f"{number}<\x00{'y' * length}")) for i in range(9)]
        browser.add(0, number, asked, rows)
        assert browser.size <= largest
    text = browser.json()
    assert 0.6 * largest < len(text.encode()) <= 1.02 * largest
    kept = json.loads(text)["items"]
    assert browser.first == len(kept) == len(json.loads(text)["questions"]) and browser.limit == 200
    assert browser.responses == 9 * len(kept)
    assert browser.shortened == (browser.responses if length > 200 else 0)
