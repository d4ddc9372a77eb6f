"""Whether a rejected answer is so near to the reference that the verifier may have misread one of them. Pure."""

from __future__ import annotations

import difflib
import re
import unicodedata
from fractions import Fraction

from openrlhf_mel.verifier import as_number

_LONGEST = 300  # characters: longer texts are compared with nothing; also how far from its end a response is searched
_ALIKE = 0.8  # of difflib's ratio
_LEAST_ALIKE = 5  # characters of the shorter text: of fewer, one changed character is much
_NEARBY = Fraction(1, 100)
_SCALES = {Fraction(10) ** power for power in (-3, -2, -1, 1, 2, 3)}
_TOKEN = re.compile(r"\\?[^\W\d_]+|\d+(?:\.\d+)?|\S")
_NO_CONTENT = frozenset("${}\\*\"'") | {"\\left", "\\right", "\\text", "\\mathrm", "\\mathbf", "\\textbf", "\\boxed"}


def near_miss(answer: str, gold: str) -> bool:
    """Whether an answer that was judged wrong is near to the gold.

    Two numbers are near when they differ by at most 1%, in their sign alone, or by a factor of 10, 100 or 1,000. Other
    texts are near when one contains the other's symbols in a row, or when 80% of their characters agree; then both have
    at most 300 characters.
    """
    first, second = as_number(answer), as_number(gold)
    if first and second and first.value is not None and second.value is not None:
        return _near(Fraction(first.value), Fraction(second.value))
    if max(len(answer), len(gold)) > _LONGEST:
        return False
    ours, theirs = _tokens(answer), _tokens(gold)
    return _contains(ours, theirs) or _contains(theirs, ours) or _alike("".join(ours), "".join(theirs))


def ending(response: str) -> str:
    """The last 300 characters of a response: all that `ends_with_gold` reads."""
    return response[-_LONGEST:]


def ends_with_gold(response: str, gold: str) -> bool:
    """Whether the gold's symbols stand in a row in the last 300 characters of a response."""
    return len(gold) <= _LONGEST and _contains(_tokens(ending(response)), _tokens(gold))


def _near(answer: Fraction, gold: Fraction) -> bool:
    if abs(answer - gold) <= abs(gold) * _NEARBY or answer == -gold:
        return True
    return gold != 0 and answer / gold in _SCALES


def _tokens(text: str) -> list[str]:
    """Commands, words, numbers and signs; what only formats is left out."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [token for token in _TOKEN.findall(folded) if token not in _NO_CONTENT]


def _contains(outer: list[str], inner: list[str]) -> bool:
    size = len(inner)
    return bool(inner) and any(outer[i : i + size] == inner for i in range(len(outer) - size + 1))


def _alike(first: str, second: str) -> bool:
    if min(len(first), len(second)) < _LEAST_ALIKE:
        return False
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    bounds = matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio  # from the cheapest
    return all(bound() >= _ALIKE for bound in bounds)
