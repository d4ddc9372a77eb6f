"""The readings of an answer: what it may say, without what means nothing. Pure.

Nearly every answer has one. "(C) 12" names a choice and its value; "101,202" is a number or a list of two.
"""

import re

from openrlhf_mel.verifier import relations
from openrlhf_mel.verifier.exact import Number, parse_number
from openrlhf_mel.verifier.notation import MAX_CHARS, canonical
from openrlhf_mel.verifier.structure import is_digits_and_commas, with_grouped_digits, without_cut_decimals
from openrlhf_mel.verifier.words import Reading, read

_CHOICE = re.compile(
    r"(?:\s*(?:option|choice|answer)\s+)?(?:\\(?:text|math)[a-z]*\s*\{\s*|\\mbox\s*\{\s*|\{\s*\\bf\s*)?"
    r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[.):](?!\s*[0-9]*\s*\)))\s*:?\s*(?:\}\s*:?)?\s*(?P<value>.*)",
    re.IGNORECASE | re.DOTALL,
)
# What follows a letter in an expression or a list of choices, where it is no choice's value.
_NO_VALUE = re.compile(
    r"[=^_+*/,;(\[<>:|]|\\(?:cdot|times|cup|cap|in|le|ge|circ)(?![A-Za-z])|(?:\\[a-z]+\{)?\s*(?:or|and)\b|.*\([A-J]\)"
)


def readings(text: str) -> list[Reading]:
    """The readings of an answer, the likeliest first. One of more than `MAX_CHARS` characters is taken as it stands."""
    if len(text) > MAX_CHARS:
        return [Reading(text.strip())]
    choice = _CHOICE.fullmatch(text)
    letter = choice and (choice[1] or choice[2])
    if choice and letter.isupper() and choice["value"].strip() and not _NO_VALUE.match(choice["value"]):
        return [Reading(letter), *readings(_balanced(choice["value"]))]
    text = without_cut_decimals(canonical(text))
    found = [_without_alternatives(read(with_grouped_digits(text)))]
    if is_digits_and_commas(text):
        found.append(Reading(text.replace(",", ", ")))
    return found


def as_number(text: str) -> Number | None:
    """The number that an answer is, with a unit or without; None when it is anything else, or more than that."""
    if len(text) > MAX_CHARS:
        return parse_number(text.strip())
    reading = readings(text)[-1 if _CHOICE.match(text) else 0]
    return None if reading.words else parse_number(reading.math)


def _without_alternatives(reading: Reading) -> Reading:
    union = relations.union(reading.math) if set(reading.words) == {"or"} else None
    return Reading(union) if union else reading


def _balanced(value: str) -> str:
    """A choice's value without the brace that closed around letter and value: "\\textbf{(D) 40}"."""
    value = value.strip()
    return value[:-1] if value.endswith("}") and value.count("}") > value.count("{") else value
