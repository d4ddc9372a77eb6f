"""Reference answers: where a source keeps them, how they are written here, and which cannot be trusted. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from openrlhf_mel.verifier.extraction import unwrap_box

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_WHOLE = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?")
_DEGREES = re.compile(rf"({_NUMBER})\s*\^\s*(?:\{{\s*\\circ\s*\}}|\\circ)")
_MATH_LIST = re.compile(r"\$[^$]+\$(?:\s*(?:,|;|and)\s*\$[^$]+\$)*")
_DELIMITED = re.compile(r"\$([^$]+)\$")
_EXACT = 2**53  # up to here a float64 holds every whole number
_LARGEST = 307  # powers of ten that a float64 reaches
_DIGITS = 16  # a float64 is printed with up to 17 digits; people write fewer
_LUCK = 32  # bits: a rounded number has an odd part as short as this once in a million times


class WrongType(ValueError):
    """A value that is no reference answer at all: a mistake in the file, not a bad answer."""


def _as_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        raise WrongType(f"found {cell!r:.60} ({type(cell).__name__}), expected a text or a number")
    return repr(cell)


def _last_box(cell: Any) -> str:
    """MATH's solutions hold their answer in a box."""
    text = _as_text(cell)
    answer = unwrap_box(text)
    return answer if answer != text else ""


def _after_hashes(cell: Any) -> str:
    """GSM8K's solutions end in "#### 1,234"."""
    _, mark, answer = _as_text(cell).rpartition("####")
    return answer.strip().replace(",", "") if mark else ""


def _list(cell: Any) -> str:
    """OlympiadBench has a list, nearly always of one text, which may itself hold several answers."""
    return ", ".join(map(_as_text, cell)) if isinstance(cell, list) else _as_text(cell)


# How a source's cell is read as an answer: "" where there is none, WrongType where it cannot hold one.
READERS: dict[str, Callable[[Any], str]] = {
    "plain": _as_text,
    "boxed": _last_box,
    "hashes": _after_hashes,
    "list": _list,
}


def normalise(gold: str) -> str:
    """One way of writing each answer: no box, no math delimiters, whole numbers plain ("025", "27.0"), no degree sign.

    Several answers stay one text, "69, 84". What is not recognised stays as it is.
    """
    gold = unwrap_box(gold.strip()).strip()
    if _MATH_LIST.fullmatch(gold):
        gold = _DELIMITED.sub(lambda math: math[1].strip(), gold)
    if degrees := _DEGREES.fullmatch(gold):
        gold = degrees[1]
    if whole := _WHOLE.fullmatch(gold):
        sign = "-" if whole[1] == "-" and whole[2] != "0" else ""
        gold = sign + whole[2]
    return gold


def float_damage(gold: str) -> str | None:
    """Why a number looks as if a float64 had rounded it, or None.

    A whole number above 2^53 that a float64 holds exactly cannot be told from a rounded one, unless it is a small
    number times a power of two. A fraction of 16 digits or more that is the shortest form of a float64 is one.
    """
    try:
        number = Decimal(gold)
    except InvalidOperation:
        return None
    if not number.is_finite():
        return "not a number"
    if number.adjusted() > _LARGEST:
        return None
    shortest = len(number.as_tuple().digits) >= _DIGITS and Decimal(repr(float(number))) == number
    if shortest and not gold.strip("+- ").isdigit():
        return "the shortest form of a float64"
    whole = abs(int(number))
    if int(number) != number or whole <= _EXACT or int(float(whole)) != whole:
        return None
    odd = whole // (whole & -whole)
    return "above 2^53 and a large number times a power of two" if odd.bit_length() > _LUCK else None
