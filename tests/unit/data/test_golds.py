"""Reference answers are read, normalised, and recognised as damaged."""

import math
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data.golds import READERS, WrongType, float_damage, normalise


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("025", "25"), ("27.0", "27"), ("27.", "27"), ("000", "0"), ("-0.0", "0"), ("-007", "-7"), ("+2", "2"),
        ("336^\\circ", "336"), ("336^{\\circ}", "336"), ("\\boxed{336^\\circ}", "336"), (" 4.20 ", "4.20"),
        ("$69$,$84$", "69,84"), ("$\\frac{1}{2}$", "\\frac{1}{2}"), ("$(1,2), (3,4)$", "(1,2), (3,4)"),
        ("$f(x)=a$, where $a$ is any", "$f(x)=a$, where $a$ is any"), ("1,234", "1,234"), ("\\text{east}", "\\text{east}"),
        ("\ufeff12", "12"), ("0\u200b25", "25"), ("\u200e12\u200f", "12"), ("\u202a-7\u202c", "-7"), ("x\u200d+1", "x+1"),
        ("$\u206069$,$84$", "69,84"), ("\u200b\\boxed{5}", "5"), ("1\u00ad2", "12"), (" \ufeff ", ""), ("\x0012", "12"),
        ("12 cm", "12 cm"), ("1\u00a0000", "1\u00a0000"), ("1\u2009000", "1\u2009000"), ("é", "é"), ("x₂", "x₂"), ("−5", "−5"),
        ("x^\\circ", "x^\\circ"), ("4.5e33", "4.5e33"), ("", ""),
    ],
)  # fmt: skip
def test_golds_are_written_in_one_way(written, expected):
    assert normalise(written) == expected


@given(st.text())
def test_writing_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("read", "cell", "expected"),
    [
        ("plain", "7", "7"), ("plain", 7, "7"), ("plain", 27.0, "27.0"), ("plain", None, ""), ("plain", -1.5, "-1.5"),
        ("boxed", "so $x=\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"), ("boxed", "no box", ""), ("boxed", None, ""),
        ("hashes", "1+1=2\n#### 1,234", "1234"), ("hashes", "no mark", ""), ("hashes", "#### 3, 4", "3, 4"), ("hashes", "#### \u200b1,\u200b234\ufeff", "1234"),
        ("list", ["$1$", "2"], "$1$, 2"), ("list", ["1", 2.5], "1, 2.5"), ("list", ["a", None], "a, "), ("plain", Decimal("1.50"), "1.50"), ("list", "3", "3"), ("list", [], ""),
    ],
)  # fmt: skip
def test_where_an_answer_stands(read, cell, expected):
    assert READERS[read](cell) == expected


@pytest.mark.parametrize("cell", [True, ["1"], {"a": 1}, b"1"])
def test_what_is_no_answer(cell):
    with pytest.raises(WrongType, match="expected a text or a number"):
        READERS["plain"](cell)


@pytest.mark.parametrize(
    "gold",
    ["105263157894736848", "22099999999999998951424", "20000000000000000000000", "0.30000000000000004", "nan", "-inf",
     "1.0526315789473685e+17", "-105263157894736848", "105263157894736850"],
)  # fmt: skip
def test_damage(gold):
    assert float_damage(gold)


@pytest.mark.parametrize(
    "gold",
    ["7", "-366", "9007199254740991", "9007199254740992", "105263157894736842", "1152921504606846976", "0.25", "1e5",
     "12157665459056928801", "3.14159", "infinity", "1e22", "4.5e33", "2e27", "\\frac{1}{2}", "", "x", "1e999999999", "9" * 5000],
)  # fmt: skip
def test_no_damage(gold):
    assert float_damage(gold) is None


@given(st.integers(2**53, 2**200))
def test_rounding_a_whole_number_shows(number):
    rounded = int(float(number))
    assume((rounded // (rounded & -rounded)).bit_length() > 32)
    assert float_damage(str(rounded))
    if rounded != number:
        assert float_damage(str(number)) is None


@given(st.builds(lambda top, power: top / 7 * 10.0**power, st.integers(1, 10**9), st.integers(-20, 20)))
def test_a_printed_float_of_many_digits_shows(number):
    digits = repr(number).partition("e")[0].replace(".", "").strip("-0")
    assume(len(digits) >= 16 and not math.isclose(number, round(number), rel_tol=0, abs_tol=0))
    assert float_damage(repr(number))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=5, min_value=-(10**9), max_value=10**9))
def test_numbers_that_people_write_are_left_alone(number):
    assert float_damage(str(number)) is None


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [
        "1" * 200_000,
        "0" * 200_000 + "x",
        "1." * 100_000,
        "$1$," * 50_000,
        "\\boxed{" * 30_000,
        "9" * 200_000 + "^\\circ x",
    ],
)
def test_no_answer_takes_long(text):
    normalise(text)
    float_damage(text)
    for read in READERS.values():
        read(text)
