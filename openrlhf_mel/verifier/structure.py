"""The brackets and commas of an answer: its elements, and whether it is a point, an interval, a set or a list. Pure."""

import re
from typing import TypeAlias

_TOKENS = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING = {"(": "point", "[": "point", "\\{": "set", "\\langle": "point", "{": "", "\\lfloor": "", "\\lceil": ""}
_CLOSING = {")", "]", "\\}", "\\rangle", "}", "\\rfloor", "\\rceil"}

# Two adjacent numbers ("1 2", "0.5\frac12"), or a prime on one: the meaning is unknown, so it only equals the same
# text. An index or a power before a number is neither: "\log_2 8".
_NUMBER = r"(?<![0-9.A-Za-z_^}])(?<![_^]\{)[0-9]+(?:\.[0-9]+)?"
_QUOTIENT = r"\\frac\{[0-9]+\}\{[0-9]+\}"
_GAP = re.compile(rf"{_NUMBER}\s+[0-9.]|{_NUMBER}\s*{_QUOTIENT}|{_QUOTIENT}\s*[0-9]|{_NUMBER}'")
_ELLIPSIS = re.compile(r"\\ldots(?![A-Za-z])")
# Three dots after a decimal's digits mean that it continues.
_CUT_DECIMAL = re.compile(r"([0-9]\.[0-9]+)\s*\\ldots(?![A-Za-z])\s*(?![0-9])")
_GROUP_BEFORE = re.compile(r"[0-9]{1,3}\Z")
_GROUP_AFTER = re.compile(r",[0-9]{3}(?![0-9])")
_NUMBER_WITH_GROUPS = re.compile(r"(?<![0-9.,_^])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])")
# "x \\in S" is S, "5<x<9" an interval, "\\pm 1" two values.
_MEMBER = re.compile(r"(?:[A-Za-z]|\\[a-z]+)\s*\\in(?![A-Za-z])\s*(?P<set>.*)", re.DOTALL)
_BETWEEN = re.compile(r"[^<>=]*(?:<|\\le(?![A-Za-z]))[^<>=]*[A-Za-z][^<>=]*(?:<|\\le(?![A-Za-z]))[^<>=]*")
_PLUS_OR_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_SPACE = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])|(?<=\\)\s+")
_EXPLICIT_LIST = re.compile(r"[0-9,]+")

Shape: TypeAlias = "str | tuple[Shape, ...]"


def elements(text: str, separators: str = ",;") -> list[str]:
    """Split at the separators outside every bracket and brace."""
    parts, depth, start = [], 0, 0
    for token in _TOKENS.finditer(text):
        kind = token.group()
        if kind in _OPENING:
            depth += 1
        elif kind in _CLOSING:
            depth = max(0, depth - 1)
        elif depth == 0 and kind in separators:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    return [*parts, text[start:].strip()]


def shape(text: str) -> Shape:
    """Return ("set" | "point" | "list", shapes of its elements) of a text in brackets or with commas; "value" for others.

    An interval is a "point" of two, also when it is written as an inequality.
    """
    if member := _MEMBER.fullmatch(text):
        return shape(member["set"])
    parts = elements(text)
    if len(parts) > 1:
        return ("list", *map(shape, parts))
    kind, content = _enclosed(text)
    if not kind:
        if _BETWEEN.fullmatch(text):
            return ("point", "value", "value")
        return ("set", "value", "value") if _PLUS_OR_MINUS.search(text) else "value"
    inner = elements(content)
    return (kind, *map(shape, inner)) if len(inner) > 1 else shape(content)


def shapes_agree(gold: Shape, answer: Shape) -> bool:
    """A set is neither a point nor an interval. A list without brackets may be any of them, and a value anything."""
    if isinstance(gold, str) or isinstance(answer, str):
        return True
    if len(gold) != len(answer):
        return True  # unequal anyway, and not for this reason
    if {gold[0], answer[0]} == {"set", "point"}:
        return False
    pairs = zip(sorted(gold[1:], key=repr), sorted(answer[1:], key=repr), strict=True)
    return all(shapes_agree(first, second) for first, second in pairs)


def packed(text: str) -> str:
    """The text without meaningless spaces: those after a command, and those next to a sign."""
    return _SPACE.sub("", text)


def has_gap(text: str) -> bool:
    """Whether two numbers are adjacent without an operator, so that their meaning is unknown."""
    return bool(_GAP.search(text))


def has_ellipsis(text: str) -> bool:
    """Whether the answer omits a part by an ellipsis."""
    return bool(_ELLIPSIS.search(text))


def without_cut_decimals(text: str) -> str:
    """Drop the dots after a decimal's digits: "3.14159..." is 3.14159."""
    return _CUT_DECIMAL.sub(r"\1", text)


def with_grouped_digits(text: str) -> str:
    """Drop the commas between groups of three digits, outside brackets, unless one is the comma of a list.

    "1,234" is a number, also in "1,234\\pi"; "(1,234)" is a point; "1,100,x" is a list; "5, 1,234" has two numbers.
    """
    if "," not in text:
        return text
    commas: list[int] = []
    depth = 0
    for token in _TOKENS.finditer(text):
        kind = token.group()
        if kind != "{" and kind in _OPENING:
            depth += 1
        elif kind != "}" and kind in _CLOSING:
            depth = max(0, depth - 1)
        elif kind == "," and depth == 0:
            commas.append(token.start())
    grouping = [at for at in commas if _GROUP_BEFORE.search(text, max(0, at - 4), at) and _GROUP_AFTER.match(text, at)]
    grouping = _chained(text, grouping)
    if any(not text[at + 1 : at + 2].isspace() for at in commas if at not in grouping):
        return text
    cuts = set(grouping)
    return "".join(character for at, character in enumerate(text) if at not in cuts)


def _chained(text: str, commas: list[int]) -> list[int]:
    """The commas inside a number whose first group has one to three digits and does not begin with 0."""
    inside = {at for number in _NUMBER_WITH_GROUPS.finditer(text) for at in range(*number.span())}
    return [at for at in commas if at in inside]


def is_digits_and_commas(text: str) -> bool:
    """Whether it can be read as one number in groups of digits and as a list: "101,202"."""
    return bool(_EXPLICIT_LIST.fullmatch(text)) and "," in text


def closing_brackets(text: str) -> dict[int, int]:
    """The position of the closing bracket for each opening round bracket."""
    closed: dict[int, int] = {}
    opened: list[int] = []
    for position, character in enumerate(text):
        if character == "(":
            opened.append(position)
        elif character == ")" and opened:
            closed[opened.pop()] = position
    return closed


def _enclosed(text: str) -> tuple[str, str]:
    """The kind and content of a text enclosed in one pair of brackets; ("", "") for any other text."""
    tokens = list(_TOKENS.finditer(text))
    if len(tokens) < 2 or tokens[0].group() not in _OPENING or tokens[-1].group() not in _CLOSING:
        return "", ""
    depth = 0
    for number, token in enumerate(tokens):
        depth += (token.group() in _OPENING) - (token.group() in _CLOSING)
        if depth == 0 and number < len(tokens) - 1:
            return "", ""
    # in plain text braces are those of a set: "{5, 9}"
    kind = _OPENING[tokens[0].group()] or ("set" if tokens[0].group() == "{" else "")
    return (kind, text[tokens[0].end() : tokens[-1].start()]) if depth == 0 else ("", "")
