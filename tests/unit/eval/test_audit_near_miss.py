"""eval/auditing/near_miss.py: which wrong answers are near the reference."""

import time

import pytest

from eval.auditing.near_miss import ends_with_gold, near_miss

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("3.14", "3.15"),
        ("-5", "5"),
        ("50", "0.5"),
        ("1200", "12"),
        ("7", "7"),
        ("101/100", "1"),
        ("(1,2)", "2"),
        ("2", "x = 2 or x = 3"),
        ("\\text{Paris}", "paris, france"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("Pythagoras's theorem", "Pythagoras' theorem"),
        ("x^2+2x+1", "x^2+2x-1"),
    ],
)
def test_near(answer, gold):
    assert near_miss(answer, gold)


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("3", "4"),
        ("102", "100"),
        ("0", "5"),
        ("5", "0"),
        ("20", "3"),
        ("100000", "1"),
        ("x+1", "y"),
        ("a", "b"),
        ("cats", "bats"),
        ("\\frac{\\pi}{3}", "\\sqrt{7}"),
        ("", "5"),
        ("$$", "x"),
    ],
)
def test_not_near(answer, gold):
    assert not near_miss(answer, gold)


def test_texts_of_more_than_300_characters_are_near_nothing():
    assert near_miss("y" * 300, "y" * 300) and not near_miss("y" * 301, "y" * 301)


def test_hostile_texts_take_no_time():
    start = time.monotonic()
    for answer in ("{" * 100_000, "9" * 300_000, "ab" * 150, "\\frac" * 60, "1e999999999", "x^" * 150):
        near_miss(answer, "ba" * 150)
        near_miss("12", answer)
        ends_with_gold(answer, "2 3")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "response, gold, ends",
    [
        ("so we get 12 apples.", "12", True),
        ("so we get $\\frac{1}{2}$", "\\frac12", False),
        ("so we get $\\frac{1}{2}$", "\\frac{1}{2}", True),
        ("so we get 112 apples.", "12", False),
        ("12" + " and so on" * 40, "12", False),
        ("", "12", False),
    ],
)
def test_a_response_that_ends_with_the_gold(response, gold, ends):
    assert ends_with_gold(response, gold) == ends
