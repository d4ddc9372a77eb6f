"""Reading of answers: notation, words, brackets and the sides of an equation."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_mel.verifier.extraction import extract_anchored
from openrlhf_mel.verifier.notation import MAX_CHARS, canonical
from openrlhf_mel.verifier.readings import readings
from openrlhf_mel.verifier.sides import names
from openrlhf_mel.verifier.structure import shape, with_grouped_digits
from openrlhf_mel.verifier.words import Reading

pytestmark = pytest.mark.timeout(60)

PIECES = [
    *("\\frac{1}{2}", "\\frac12", "\\sqrt", "\\sqrt(", "\\text{", "\\text{ or }", "\\text{cm}", "}", "{", "(", ")", "[", "\\{", "\\}"),
    *("1", "12", "1,234", "1\\,234", " ", "x", "AB", "=", "<", "\\le", "+", "-", "^", "_", "^2", "\\ldots", "...", "%", "\\%", "$"),
    *("apples", "million", "fewer than", "and", "or", "minus", "(C)", "\\overline{3}", "0.", "½", "²", "√", "∞", "\u200b", "°", ";", "&"),
]  # fmt: skip
answers = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=40)


@given(answers)
@settings(max_examples=400, deadline=None)
def test_any_text_can_be_read(text: str) -> None:
    assert all(isinstance(reading, Reading) for reading in readings(text))
    extract_anchored(f"Answer: {text}")


@given(answers)
@settings(max_examples=400, deadline=None)
def test_no_mark_of_a_word_is_left(text: str) -> None:
    assert not any(mark in reading.math for reading in readings(text) for mark in "\ue000\ue001")


@pytest.mark.parametrize(
    ("text", "math", "words"),
    [
        ("12\\text{ million}", "12000000", ()),
        ("1.5 million dollars", "1500000", ()),
        ("12 kg·m/s²", "12", ()),
        ("12 even numbers", "12", ()),
        ("n\\text{ even}", "n", ("even",)),
        ("12 more than x", "12 x", ("more", "than")),
        ("\\text{Area of triangle }ABC = 12", "12", ()),
        ("\\text{Evelyn}", "", ("evelyn",)),
        ("\\text{(C)}", "C", ()),
        ("v_{\\text{max}}", "v_{max}", ()),
        ("MR=SRMC", "MR=SRMC", ()),
        ("abc", "abc", ()),
        ("x<1 \\text{ or } x>2", "(-\\infty,1)\\cup (2,\\infty)", ()),
        ("square root of 5", "\\sqrt{5}", ()),
        ("\\sin 30^\\circ", "\\sin(\\frac{30\\pi}{180})", ()),
        ("30^\\circ", "30", ()),
    ],
)
def test_words_go_count_or_become_mathematics(text: str, math: str, words: tuple[str, ...]) -> None:
    assert readings(text)[0] == Reading(math, words)


def test_two_readings() -> None:
    assert [reading.math for reading in readings("101,202")] == ["101202", "101, 202"]
    assert [reading.math for reading in readings("\\textbf{(C)}\\ 12")] == ["C", "12"]
    assert len(readings("(1,234)")) == 1


@pytest.mark.parametrize(
    ("text", "grouped"),
    [
        ("1,234,567", "1234567"),
        ("12,345\\pi+1,000", "12345\\pi+1000"),
        ("\\frac{1,234}{5}", "\\frac{1234}{5}"),
        ("5, 1,234", "5, 1234"),
        ("(1,234)", "(1,234)"),
        ("1,100,x", "1,100,x"),
        ("0,123", "0,123"),
        ("1,2345", "1,2345"),
    ],
)
def test_commas_between_groups_of_digits(text: str, grouped: str) -> None:
    assert with_grouped_digits(text) == grouped


def test_shapes() -> None:
    assert shape("\\{1,(2,3)\\}") == ("set", "value", ("point", "value", "value"))
    assert shape("\\{1\\}") == "value"
    assert shape("1,2") == ("list", "value", "value")
    assert shape("(1,2)\\cup(3,4)") == "value"


NAMES = (
    *(
        "x",
        "x'",
        "x_1",
        "a_{10}",
        "\\theta",
        "S_n",
        "v_{max}",
        "\\vec{v}",
        "f(2)",
        "f(x)",
        "f'(2)",
        "f^{-1}(3)",
        "f(f(2))",
    ),
    *(
        "P(A)",
        "P(A\\mid B)",
        "E[X]",
        "\\mathbb{E}[X]",
        "n(A\\cup B)",
        "a(2)",
        "N(n)",
        "|S|",
        "[ABC]",
        "S_{\\triangle ABC}",
    ),
    *(
        "\\angle ABC",
        "m\\angle A",
        "AB",
        "|AB|",
        "\\overline{AB}",
        "A'B'",
        "A_1A_2",
        "\\lim_{x\\to0}f(x)",
        "\\sum_{i=1}^{n} a_i",
    ),
    *("m+n", "p+q+r", "m/n", "\\frac{m}{n}", "\\frac{p+q}{r}", "(m+n)/p", "x_1+x_2", "AB+BC", "f(1)+f(2)"),
)
NO_NAMES = (
    *("x_1x_2", "\\sum x+1", "\\lim x^2+3", "\\int_0^1 x dx-1", "\\max(a,b)^2", "p(q+1)", "N(M-1)", "x(3)"),
    *(
        "x^2",
        "x_1^2",
        "AB^2",
        "f(2)^2",
        "2x",
        "2f(2)",
        "5x+3y",
        "100m+n",
        "xy",
        "x\\cdot y",
        "f(x)g(x)",
        "x(x+1)",
        "n(n-1)",
        "p(p+1)",
    ),
    *(
        "-x",
        "-f(2)",
        "1/x",
        "\\frac{1}{x}",
        "x/2",
        "\\frac{x}{2}",
        "x/x",
        "x+x",
        "a+1",
        "1-x",
        "x+y+1",
        "m-n",
        "(x+y)^2",
        "x^2+y^2",
    ),
    *(
        "|x|",
        "|t|",
        "|x+y|",
        "\\sqrt{x}",
        "\\log_2 x",
        "\\ln x",
        "\\sin x",
        "\\cos(x)",
        "e^x",
        "2^x",
        "n!",
        "\\gcd(a,b)",
        "\\pi",
        "e",
    ),
)


@pytest.mark.parametrize("side", NAMES)
def test_a_side_that_only_names(side: str) -> None:
    assert names(side)


@pytest.mark.parametrize("side", NO_NAMES)
def test_a_side_that_says_more(side: str) -> None:
    assert not names(side)


HOSTILE = [
    *("1,111,", "1 ", "\\frac12", "\\text{a}", "\\text{", "million ", "and ", "1 and ", "x>1 or ", "apples ", "(", "\\{", "0.(", "="),
    *("m+", "\\sqrt(", "√", "²", "12 cm ", "1 m/s", "a-b", "half of ", "0.1\\dot", "...", "(C) ", "½", "1\u0305", "\u200b", "{", "_{\\text{a"),
    *("HT", "string HT", "€ ", "A.", "√(", "\\text{ cm}US", "\\text{or}AB", "a:", "(x,y)=", "x_{{", "P(", "x+", "\\{x|", "5<x<", "of "),
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_the_longest_answer_is_read_in_bounded_time(unit: str) -> None:
    text = (unit * MAX_CHARS)[:MAX_CHARS]
    started = time.monotonic()
    canonical(text)
    readings(text)
    assert time.monotonic() - started < 5
