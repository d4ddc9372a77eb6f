"""Equality that needs no computer algebra: numbers as they are written, decided exactly and in bounded time.

A decimal is (sign, digits, power of ten) with the zeros stripped, so that two decimals of any length are compared
without converting them; a fraction is a `Fraction` of at most `_MAX_DIGITS` digits.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_DIGITS = 400  # beyond this many digits or powers of ten a number is only compared as written
_ROUNDING = 6  # Math-Verify compares a decimal after rounding to this many places
_RELATIVE = Fraction(1, 1000)  # and rounding must not make two small numbers equal that differ by more than this

_ASCII = (
    {0xFF01 + i: 0x21 + i for i in range(94)}
    | {ord(c): "-" for c in "−–‒﹣"}
    | {ord(c): " " for c in "\u00a0\u202f\u3000\u2009"}
)
_SPACING = re.compile(r"(?<!\\)\\[,;: ]|\\quad\b|\\qquad\b|\\displaystyle\b|\\left\b|\\right\b|~")
_NOTHING = re.compile(r"(?<!\\)\\[()\[\]!]")  # math delimiters, and the space that pulls together
_UNIT = re.compile(
    r"(?:\s*\^\s*\{?\s*\\circ\s*\}?|\s*\\degrees?\b|\s*°|\s*\\(?:text|mbox|mathrm|textrm|textbf)\s*\{[^{}\d%]*\}(?:\^\{?[23]\}?)?)$"
)
_WORDS = re.compile(r"^([+-]?[\d.,]*\d)\s+((?:[A-Za-z]{2,}\.?\s*){1,6})$")
# "7 million" is not 7, and "7 or 8", "7 percent", "7 factorial" are not 7 of something.
_NOT_UNITS = re.compile(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|score|percent|percentage|pct|and|or|to|plus|minus|times|"
    r"over|mod|pi|factorial|squared|cubed|in|base|half|halves|thirds?|quarters?|fourths?|fifths?)\b",
    re.IGNORECASE,
)
_WRAPPER = re.compile(r"^\\(?:text|mbox|mathrm|mathbf|textbf|textrm|boldsymbol|bm|mathit)\s*\{([^{}]*)\}$")
_DECIMAL = re.compile(
    r"([+-]?)(?:([1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?\d{1,6})|(?:\\times|\\cdot|\*|×)10\^(?:\{([+-]?\d{1,6})\}|(\d)))?"
)
_POWER = re.compile(r"([+-]?)10\^(?:\{([+-]?\d{1,6})\}|(\d))")
_FRACTION = re.compile(
    r"([+-]?)(?:\\frac(?:\{([+-]?\d+)\}\{([+-]?\d+)\}|(\d)(\d)|(\d)\{(\d+)\}|\{([+-]?\d+)\}(\d))|(\d+)/(\d+))"
)
_BASE = re.compile(r"([0-9A-Za-z]+)_(?:\{(\d+)\}|(\d))")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written. `value` is None where it is too long to compute with; `percent` is already in the value."""

    canonical: tuple[int, str, int] | None  # of a decimal: sign, digits without outer zeros, power of ten
    value: Fraction | None
    decimal: bool  # written with a point or a power of ten, so equal up to rounding
    percent: bool


def plain(text: str) -> str:
    """Rewrite `text` without what means nothing: spacing, `$`, full-width forms, an outer \\text, a last period."""
    text = text.translate(_ASCII)
    text = _NOTHING.sub("", text)
    text = _SPACING.sub(" ", text).replace("\\$", "").replace("$", "").replace("{,}", ",")
    text = (
        text.replace("\\%", "%").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    )
    text = " ".join(text.split())
    for _ in range(3):
        text = text.removesuffix(".").strip() if not text.endswith("..") else text
        wrapped = _WRAPPER.match(text)
        if wrapped:
            text = wrapped.group(1).strip()
    return text


def readable(text: str) -> str:
    """Rewrite `text` as Math-Verify can read it, with no change of meaning: full-width forms and a last period."""
    text = text.translate(_ASCII).strip()
    return text.removesuffix(".").strip() if not text.endswith("..") else text


def parse_number(text: str) -> Number | None:
    """Read `plain` text as one number, with at most one unit after it; None when it is anything else."""
    if not any(map(str.isdigit, text[:12])):
        return None
    text = _without_unit(text)
    percent = text.endswith("%")
    body = text.removesuffix("%").replace(" ", "") if percent or _spaced_number(text) else text
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
    """Whether both are numerals with a base written under them, such as 52_8, and numeral or base differs."""
    first, second = _BASE.fullmatch(gold.replace(" ", "")), _BASE.fullmatch(answer.replace(" ", ""))
    if not first or not second or not (first.group(1)[0].isdigit() and second.group(1)[0].isdigit()):
        return False
    parts = [(m.group(1).lstrip("0").upper(), (m.group(2) or m.group(3)).lstrip("0")) for m in (first, second)]
    return parts[0] != parts[1]


def _without_unit(text: str) -> str:
    words = _WORDS.match(text) if len(text) < 200 else None
    if words and not _NOT_UNITS.search(words.group(2)):
        return words.group(1)
    for _ in range(2):
        unit = _UNIT.search(text, max(0, len(text) - 80))
        if unit and not _NOT_UNITS.search(unit.group()):
            text = text[: unit.start()].rstrip()
    return text


def _spaced_number(text: str) -> bool:
    """Spaces around operators and after a sign mean nothing; between two digits they do ("1 2" is not 12)."""
    return " " in text and not re.search(r"[\d,] (?:[\d,]|\\frac)", text)


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
