"""The exact path, compared with Python's exact arithmetic."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_mel.verifier.costly import too_costly
from openrlhf_mel.verifier.exact import bases_differ, same_number
from openrlhf_mel.verifier.readings import as_number

pytestmark = pytest.mark.timeout(60)


def same(gold: str, answer: str) -> bool | None:
    first, second = as_number(gold), as_number(answer)
    return same_number(first, second) if first and second else None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("007", 7),
        ("7.", 7),
        ("$7$", 7),
        ("\\$7", 7),
        ("７", 7),
        ("−7", -7),
        ("1,234,567", 1234567),
        ("1{,}234", 1234),
        ("10\\,000", 10000),
        (".5", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("\\frac{-1}{2}", Fraction(-1, 2)),
        ("-\\dfrac12", Fraction(-1, 2)),
        ("\\frac1{20}", Fraction(1, 20)),
        ("50\\%", Fraction(1, 2)),
        ("50 %", Fraction(1, 2)),
        ("8.7e8", 870000000),
        ("8.7\\times10^8", 870000000),
        ("8.7 \\times 10^{8}", 870000000),
        ("10^{-3}", Fraction(1, 1000)),
        ("15^\\circ", 15),
        ("15^{\\circ}", 15),
        ("7\\text{ cm}", 7),
        ("7\\text{ cm}^2", 7),
        ("\\text{7 apples}", 7),
        ("\\text{7}", 7),
        ("7 apples", 7),
        ("7 million", 7000000),
        ("7 or 8", None),
        ("7\\text{ or }", None),
        ("1 2", None),
        ("32, 349", None),
        ("0,111", None),
        ("1,2", None),
        ("(1,234)", None),
        ("1/0", None),
        ("7!", None),
        ("3\\frac12", Fraction(7, 2)),
        ("2\\frac32", None),
        ("x", None),
        ("", None),
    ],
)
def test_reads_numbers_as_they_are_written(text: str, value: Fraction | None) -> None:
    number = as_number(text)
    assert (number.value if number else None) == value


@given(st.integers(), st.integers())
@settings(max_examples=200, deadline=None)
def test_integers_are_equal_exactly_when_python_says_so(a: int, b: int) -> None:
    assert same(str(a), str(b)) is (a == b)
    assert same(str(a), f"{a:,}") is True


@given(st.fractions(), st.fractions())
@settings(max_examples=200, deadline=None)
def test_fractions_are_equal_exactly_when_python_says_so(a: Fraction, b: Fraction) -> None:
    written = f"{a.numerator}/{a.denominator}", f"\\frac{{{b.numerator}}}{{{b.denominator}}}"
    assert same(*written) is (a == b)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=9))
@settings(max_examples=200, deadline=None)
def test_a_decimal_equals_its_own_value_in_other_forms(a: Decimal) -> None:
    plain_form = f"{a:f}"
    assert same(plain_form, plain_form + "0") is True
    exact = Fraction(a)
    if exact:
        assert same(plain_form, f"{Decimal(a):e}") is True
        assert same(plain_form, f"{2 * Decimal(a):f}") is False


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("1/3", "0.333333", True),
        ("1/3", "0.33", False),
        ("0.0000001", "0.0000002", False),
        ("0", "0.0000001", False),
        ("10^{-400}", "10^{-401}", False),
        ("10^{-400}", "10^{-400}", True),
        ("50", "50\\%", False),
        ("50\\%", "0.5", True),
        ("1" * 5000, "1" * 5000, True),
        ("1" * 5000, "1" * 4999 + "2", False),
        ("1" * 5000, "0" + "1" * 5000, True),
        ("1e999999", "10^{999999}", True),
        ("1e999999", "1e999998", False),
    ],
)
def test_equality(gold: str, answer: str, equal: bool) -> None:
    assert same(gold, answer) is equal
    assert same(answer, gold) is equal


def test_bases_under_numerals() -> None:
    assert bases_differ("52_8", "52_{10}")
    assert bases_differ("52_8", "53_8")
    assert not bases_differ("52_8", "52_{8}")
    assert not bases_differ("52_8", "52")
    assert not bases_differ("x_1", "x_2")


@pytest.mark.parametrize(
    "text", ["9" * 1_000_000, "0." + "1" * 1_000_000, "1,111" * 200_000, "\\frac" * 200_000, "1 " * 500_000]
)
def test_bounded_time(text: str) -> None:
    started = time.monotonic()
    same(text, text + "1")
    too_costly(text)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        *("9^{9^{9^{9}}}", "10^{10^{10}}", "3^{1000000000}+1", "10000000!", "(10^{9})!", "\\binom{10^9}{5}"),
        *("\\sum_{k=1}^{10^6} 1/k", "\\gcd(3^{10^8},2^{10^8})", "\\lfloor 3^{10^8}/7\\rfloor", "(2+\\sqrt3)^{1000000}"),
        *("2^{16^{32^{64}}}", "{" * 1000 + "}" * 1000, "x" * 100_000, "x+" + "1" * 5000),
    ],
)
def test_the_guards_refuse_what_cannot_end(text: str) -> None:
    assert too_costly(text)


@pytest.mark.parametrize(
    "text", ["2^{2004}", "2^{2^{10}}", "1/2004!", "\\binom{2020}{1010}", "x^{2n}", "\\sum_{k=1}^{100} k"]
)
def test_the_guards_let_ordinary_answers_through(text: str) -> None:
    assert too_costly(text) is None
