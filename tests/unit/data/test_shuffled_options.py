"""A choice from a right answer and wrong ones, shuffled by a recorded seed."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data.shuffled_options import with_options
from openrlhf_mel.verifier import Reference, check_golds

pytestmark = pytest.mark.timeout(60)
TEXT = st.text("abc xyz0123", min_size=1, max_size=20)


@given(TEXT, st.lists(TEXT, min_size=2, max_size=6, unique_by=lambda t: " ".join(t.split())), st.randoms())
def test_the_letter_names_the_right_one_in_an_order_of_the_texts_alone(question, texts, rng):
    assume(all(text.strip() for text in texts))
    right, *wrong = texts
    problem, letter = with_options(question, right, wrong)
    rng.shuffle(wrong)
    assert with_options(question, right, wrong) == (problem, letter)
    lines = problem.splitlines()[-len(texts) :]
    assert f"{letter}) {' '.join(right.split())}" in lines
    assert [line[0] for line in lines] == list("ABCDEF"[: len(texts)])
    assert sorted(line[3:] for line in lines) == sorted(" ".join(text.split()) for text in texts)


def test_the_place_of_the_right_one_is_even():
    places = [with_options(f"question {i}", "right", ["one", "two", "three"])[1] for i in range(4_000)]
    assert all(abs(places.count(letter) - 1_000) < 120 for letter in "ABCD")  # 4.4 standard deviations
    assert with_options("q", "right", ["one", "two", "three"], seed=1) != with_options(
        "q", "right", ["one", "two", "three"], seed=4
    )


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("a", ["b", " "], "empty"),
        ("a", ["b", "a "], "equal"),
        ("a", [], "found 1 options"),
        ("a", [f"b{i}" for i in range(26)], "27"),
    ],
)
def test_what_is_no_choice(right, wrong, message):
    with pytest.raises(ValueError, match=message):
        with_options("q", right, wrong)


def test_the_scorer_reads_the_options():
    problem, letter = with_options("What is\nthe capital?", "Rome", ["Paris", "a\nlong one", "Oslo"])
    assert not check_golds([Reference(letter, "choice", problem)])
