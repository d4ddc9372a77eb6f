"""The readings of an answer: its possible meanings, without parts that have no meaning. Pure.

Nearly every answer has one. "(C) 12" names a choice and its value; "101,202" is a number or a list of two.
"""

import re

from openrlhf_mel.verifier import relations
from openrlhf_mel.verifier.exact import Number, parse_number
from openrlhf_mel.verifier.notation import MAX_CHARS, canonical
from openrlhf_mel.verifier.structure import is_digits_and_commas, packed, with_grouped_digits, without_cut_decimals
from openrlhf_mel.verifier.words import Reading, read

_CHOICE = re.compile(
    r"\s*(?:\\(?:text|math)[a-z]*\s*\{\s*|\\mbox\s*\{\s*|\{\s*\\bf\s*)?(?:(?:option|choice|answer)\s+)?"
    r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[.):](?!\s*[0-9]*\s*\)))\s*:?\s*(?:\}\s*:?)?\s*(?P<value>.*)",
    re.IGNORECASE | re.DOTALL,
)
_NAMED_CHOICE = re.compile(
    r"\s*(?:\\(?:text|math)[a-z]*\s*\{\s*)?(?:option|choice)\s*\(?\s*([A-J])\s*[).]?\s*\}?\s*", re.IGNORECASE
)
_LETTER_UNIT = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]+)?|\\frac\{[0-9]+\}\{[0-9]+\})) [mshgLNJWV](?:\^\{?[23]\}?)?")
# Texts after a letter in an expression or a list of choices, which are no choice's value.
_NO_VALUE = re.compile(
    r"[=^_+*/,;(\[<>:|]|\\(?:cdot|times|cup|cap|in|le|ge|circ)(?![A-Za-z])|(?:\\[a-z]+\{)?\s*(?:or|and)\b|.*(?:\([A-J]\)|(?<![A-Za-z])[A-J][.):])"
)


def readings(text: str) -> list[Reading]:
    """The readings of an answer, the likeliest first. A text of more than `MAX_CHARS` characters is not changed."""
    if len(text) > MAX_CHARS:
        return [Reading(text.strip())]
    if named := _NAMED_CHOICE.fullmatch(text):
        return [Reading(named[1].upper())]
    choice = _CHOICE.fullmatch(text)
    letter = (choice[1] or choice[2]) if choice else ""
    if not choice or not letter.isupper() or _NO_VALUE.match(choice["value"]):
        return _readings_of_value(text)
    value = _balanced(choice["value"])
    return [Reading(letter), *(_readings_of_value(value) if value else ())]


def _readings_of_value(text: str) -> list[Reading]:
    text = without_cut_decimals(canonical(text))
    found = [_as_interval(read(with_grouped_digits(text)))]
    if is_digits_and_commas(text):
        found.append(Reading(text.replace(",", ", ")))
    return found


def without_letter_unit(reading: Reading) -> Reading | None:
    """The reading of "12 m" as twelve metres; None when no unit of one letter follows a number after a space.

    For an answer whose reference has no such letter, since the letter may be a variable.
    """
    unit = _LETTER_UNIT.fullmatch(reading.math)
    return Reading(unit[1], reading.words) if unit else None


def as_number(text: str) -> Number | None:
    """The answer as a number, with or without a unit; None when it is anything else, or more than that."""
    if len(text) > MAX_CHARS:
        return parse_number(text.strip())
    reading = readings(text)[-1 if _CHOICE.match(text) else 0]
    return None if reading.words else parse_number(reading.math)


def key_of(text: str) -> str:
    """The same for answers that are the same number, or the same text."""
    number = as_number(text)
    if number is not None and number.value is not None:
        return f"={number.value}{'%' if number.percent else ''}"
    reading = readings(text)[0]
    return f"'{packed(reading.math)} {' '.join(reading.words)}"


def _as_interval(reading: Reading) -> Reading:
    """Inequalities, alternatives and sets of their solutions, as the intervals that they describe."""
    if set(reading.words) == {"or"}:
        interval = relations.union(reading.math)
    elif reading.words:
        return reading
    else:
        interval = relations.common(reading.math) or relations.of_builder(reading.math)
    return Reading(interval) if interval else reading


def _balanced(value: str) -> str:
    """A choice's value without the brace that encloses letter and value: "\\textbf{(D) 40}"."""
    value = value.strip()
    return value[:-1] if value.endswith("}") and value.count("}") > value.count("{") else value
