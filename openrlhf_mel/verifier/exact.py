"""Equality without computer algebra: numbers as they are written, decided exactly and in bounded time.

A decimal is (sign, digits, power of ten) without outer zeros, so decimals of any length are compared without
conversion; a fraction is a `Fraction` of at most `_MAX_DIGITS` digits.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 400  # beyond this many digits or powers of ten a number is only compared as written
_ROUNDING = 6  # Math-Verify compares a decimal after rounding to this many places
_RELATIVE = Fraction(1, 1000)  # and rounding must not equate small numbers with a larger relative difference

_DECIMAL = re.compile(
    r"([+-]?)(?:([1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?\d{1,6})|(?:\\times|\\cdot|\*|×)10\^(?:\{([+-]?\d{1,6})\}|(\d)))?"
)
_POWER = re.compile(r"([+-]?)10\^(?:\{([+-]?\d{1,6})\}|(\d))")
_FRACTION = re.compile(
    r"([+-]?)(?:\\frac(?:\{([+-]?\d+)\}\{([+-]?\d+)\}|(\d)(\d)|(\d)\{(\d+)\}|\{([+-]?\d+)\}(\d))|(\d+)/(\d+))"
)
# Spaces around operators and after a sign have no meaning; between two digits they have ("1 2" is not 12).
_SPACED = re.compile(r"[0-9,] (?:[0-9,.]|\\frac)")
_BASE = re.compile(r"([0-9A-Za-z]+)_(?:\{(\d+)\}|(\d))")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written. `value` is None where it is too long to compute with; `percent` is already in the value."""

    canonical: tuple[int, str, int] | None  # of a decimal: sign, digits without outer zeros, power of ten
    value: Fraction | None
    decimal: bool  # written with a point or a power of ten, so equal up to rounding
    percent: bool


def parse_number(text: str) -> Number | None:
    """Read a text without words, in `canonical` notation, as one number; None when it is none."""
    text = text.replace("\\%", "%")
    if not any(map(str.isdigit, text[:12])):
        return None
    percent = text.endswith("%")
    body = text.removesuffix("%").strip()
    if " " in body:
        body = body if _SPACED.search(body) else body.replace(" ", "")
    number = _decimal(body) or _fraction(body)
    if number is None or not percent:
        return number
    if number.value is None:
        return None
    return Number(number.canonical, number.value / 100, number.decimal, True)


def same_number(gold: Number, answer: Number) -> bool:
    """Exact numbers must be equal; a decimal may be the other one rounded to 6 places, within 0.1% of it."""
    if gold.percent == answer.percent and gold.canonical and gold.canonical == answer.canonical:
        return True
    if gold.value is None or answer.value is None:
        return False
    if gold.value == answer.value:
        return True
    if not (gold.decimal or answer.decimal):
        return False
    largest = max(abs(gold.value), abs(answer.value))
    close = abs(gold.value - answer.value) <= largest * _RELATIVE
    return close and round(gold.value, _ROUNDING) == round(answer.value, _ROUNDING)


def bases_differ(gold: str, answer: str) -> bool:
    """Whether both are numerals with a base as index, such as 52_8, and numeral or base differs."""
    first, second = _BASE.fullmatch(gold.replace(" ", "")), _BASE.fullmatch(answer.replace(" ", ""))
    if not first or not second or not (first.group(1)[0].isdigit() and second.group(1)[0].isdigit()):
        return False
    parts = [(m.group(1).lstrip("0").upper(), (m.group(2) or m.group(3)).lstrip("0")) for m in (first, second)]
    return parts[0] != parts[1]


def _decimal(text: str) -> Number | None:
    power = _POWER.fullmatch(text)
    if power:
        text = f"{power.group(1)}1e{power.group(2) or power.group(3)}"
    match = _DECIMAL.fullmatch(text)
    if not match:
        return None
    sign, whole, after, leading, *exponents = match.groups()
    digits_after = (after or "") + (leading or "")
    digits = (whole or "").replace(",", "") + digits_after
    exponent = next((int(e) for e in exponents if e), 0) - len(digits_after)
    stripped = digits.lstrip("0")
    significant = stripped.rstrip("0")
    exponent = exponent + len(stripped) - len(significant) if significant else 0
    sign_of = 0 if not significant else -1 if sign == "-" else 1
    value = None
    if len(significant) <= _MAX_DIGITS and abs(exponent) <= _MAX_DIGITS:
        value = sign_of * int(significant or "0") * Fraction(10) ** exponent
    written_exactly = "." not in text and (power is not None or not any(exponents))
    return Number((sign_of, significant, exponent), value, not written_exactly, False)


def _fraction(text: str) -> Number | None:
    match = _FRACTION.fullmatch(text) if len(text) <= _MAX_DIGITS else None
    if not match:
        return None
    sign, *parts = match.groups()
    top, bottom = (int(part) for part in parts if part is not None)
    if bottom == 0:
        return None
    return Number(None, Fraction(-top if sign == "-" else top, bottom), False, False)
