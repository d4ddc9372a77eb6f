"""Reference answers: how to read them from a source, their normal form, and signs of damage. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from openrlhf_mel.text import without_invisible
from openrlhf_mel.verifier import MATH, unwrap_box

# Possessive, so that no text of digits is tried in more than one way.
_NUMBER = r"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)"
_WHOLE = re.compile(r"([+-]?)(\d++)(?:\.0*+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DEGREES = re.compile(rf"({_NUMBER})\s*\^\s*(?:\{{\s*\\circ\s*\}}|\\circ)")
_MATH_LIST = re.compile(r"\$[^$]+\$(?:\s*(?:,|;|and)\s*\$[^$]+\$)*")
_DELIMITED = re.compile(r"\$([^$]+)\$")
_EXACT = 2**53  # up to here a float64 represents every whole number
_LARGEST = 307  # powers of ten that a float64 reaches
_DIGITS = 16  # a float64 is printed with up to 17 digits; people write fewer
_LUCK = 32  # bits: a rounded number has so short an odd part once in a million times


class WrongType(ValueError):
    """A value whose type is no reference answer: a mistake in the file, not a bad answer."""


def _as_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        raise WrongType(f"found {cell!r:.60} ({type(cell).__name__}), expected a text or a number")
    return repr(cell)


def _last_box(cell: Any) -> str:
    """The answer of MATH's solutions, in a box."""
    text = _as_text(cell)
    answer = unwrap_box(text)
    return answer if answer != text else ""


def _after_hashes(cell: Any) -> str:
    """The answer of GSM8K's solutions, which end in "#### 1,234"."""
    _, mark, answer = _as_text(cell).rpartition("####")
    return _THOUSANDS.sub("", without_invisible(answer).strip()) if mark else ""


def _list(cell: Any) -> str:
    """The answer of OlympiadBench: a list, nearly always of one text, which may contain several answers."""
    return ", ".join(map(_as_text, cell)) if isinstance(cell, list) else _as_text(cell)


# Functions that read an answer from a source's cell: "" when there is none, WrongType when the type is wrong.
READERS: dict[str, Callable[[Any], str]] = {
    "plain": _as_text,
    "boxed": _last_box,
    "hashes": _after_hashes,
    "list": _list,
}


def normalise(gold: str, scorer: str = MATH) -> str:
    """One form for each answer: no box, no math delimiters, whole numbers plain ("025", "27.0"), no degree sign.

    Invisible characters are removed, because no model writes them. Several answers stay one text, "69, 84".
    Unrecognised forms are not changed. For another scorer than `math` only the box and invisible characters are removed.
    """
    gold = unwrap_box(without_invisible(gold).strip()).strip()
    if scorer != MATH:
        return gold
    if _MATH_LIST.fullmatch(gold):
        gold = _DELIMITED.sub(lambda math: math[1].strip(), gold)
    if degrees := _DEGREES.fullmatch(gold):
        gold = degrees[1]
    if whole := _WHOLE.fullmatch(gold):
        digits = whole[2].lstrip("0") or "0"
        gold = ("-" if whole[1] == "-" and digits != "0" else "") + digits
    return gold


def float_damage(gold: str, scorer: str = MATH) -> str | None:
    """Why a number looks as if a float64 had rounded it, or None; of answers that are judged as `math`.

    A whole number above 2^53 is suspect when a float64 represents it exactly, or when it is the printed form of a
    float64 followed by zeros: it cannot be distinguished from a rounded one, unless it is a small number times a power of two.
    A fraction, or a power of ten, of 16 digits or more that is the shortest form of a float64 is suspect as well.
    """
    if scorer != MATH:
        return None
    if gold.lower().lstrip("+-") in ("nan", "inf"):
        return "not a number"
    try:
        number = Decimal(gold)
    except InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() > _LARGEST:
        return None
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    printed = len(digits) >= _DIGITS and Decimal(repr(float(number))) == number
    if not gold.lstrip("+-").isdigit():
        return "the shortest form of a float64" if printed else None
    whole = abs(int(number))
    if whole <= _EXACT:
        return None
    if printed and whole % 10 == 0:
        return "above 2^53 and printed as a float64 is, with zeros"
    if int(float(whole)) != whole or (whole // (whole & -whole)).bit_length() <= _LUCK:
        return None
    return "above 2^53 and a large number times a power of two"
