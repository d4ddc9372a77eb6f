"""Inequalities in one unknown, as the intervals that they describe. Pure."""

import re

from openrlhf_mel.verifier.structure import elements

_UNKNOWN = r"(?P<x>[A-Za-z]|\\[a-z]+)"
_LESS, _MORE = r"(?:<|\\le(?![A-Za-z]))", r"(?:>|\\ge(?![A-Za-z]))"
_VALUE = r"[^<>=]+?"
# One unknown and a value that it is compared with, in either order.
_BELOW = re.compile(rf"\s*{_UNKNOWN}\s*(?P<op>{_LESS})\s*(?P<value>{_VALUE})\s*")
_ABOVE = re.compile(rf"\s*{_UNKNOWN}\s*(?P<op>{_MORE})\s*(?P<value>{_VALUE})\s*")
_VALUE_BELOW = re.compile(rf"\s*(?P<value>{_VALUE})\s*(?P<op>{_LESS})\s*{_UNKNOWN}\s*")
_VALUE_ABOVE = re.compile(rf"\s*(?P<value>{_VALUE})\s*(?P<op>{_MORE})\s*{_UNKNOWN}\s*")
_BETWEEN = re.compile(
    rf"\s*(?P<low>{_VALUE})\s*(?P<op>{_LESS})\s*{_UNKNOWN}\s*(?P<op2>{_LESS})\s*(?P<value>{_VALUE})\s*"
)
_MEMBER = re.compile(rf"\s*{_UNKNOWN}\s*\\in(?![A-Za-z])\s*(?P<value>.+?)\s*", re.DOTALL)
_EQUAL = re.compile(rf"\s*{_UNKNOWN}\s*=\s*(?P<value>{_VALUE})\s*")
_BUILDER = re.compile(
    rf"\\\{{\s*{_UNKNOWN}\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?:\\mid(?![A-Za-z])|:|\|)\s*(?P<condition>.+)\\\}}",
    re.DOTALL,
)


def union(text: str) -> str | None:
    """Rewrite "x<1, x>2", read as alternatives, as "(-\\infty,1)\\cup(2,\\infty)"; None when a part is anything else."""
    parts = elements(text)
    intervals = [interval for part in parts if (interval := _interval(part))]
    if not len(parts) == len(intervals) > 1 or len({name for name, _ in intervals}) != 1:
        return None
    return "\\cup ".join(interval for _, interval in intervals)


def common(text: str) -> str | None:
    """Rewrite "x>0, x<1", read as conditions that hold together, as "(0,1)"; None when it is anything else."""
    parts = elements(text)
    if len(parts) != 2:
        return None
    below, above = (next((found for part in parts if (found := end(part))), None) for end in (_upper_end, _lower_end))
    if not below or not above or below[0] != above[0]:
        return None
    return f"{above[1]},{below[1]}"


def of_builder(text: str) -> str | None:
    """Rewrite "\\{x \\mid 5<x<9\\}" as "(5,9)"; None when it is anything else."""
    builder = _BUILDER.fullmatch(text)
    if not builder:
        return None
    interval = _interval(builder["condition"])
    return interval[1] if interval and interval[0] == builder["x"] else None


def _upper_end(text: str) -> tuple[str, str] | None:
    """The unknown, and the end of the interval below a value, as "1)"."""
    match = _BELOW.fullmatch(text) or _VALUE_ABOVE.fullmatch(text)
    return (match["x"], f"{match['value']}{')' if match['op'] in '<>' else ']'}") if match else None


def _lower_end(text: str) -> tuple[str, str] | None:
    match = _ABOVE.fullmatch(text) or _VALUE_BELOW.fullmatch(text)
    return (match["x"], f"{'(' if match['op'] in '<>' else '['}{match['value']}") if match else None


def _interval(text: str) -> tuple[str, str] | None:
    """The unknown, and its interval of values."""
    if match := _BETWEEN.fullmatch(text):
        left, right = ("(" if match["op"] == "<" else "["), (")" if match["op2"] == "<" else "]")
        return match["x"], f"{left}{match['low']},{match['value']}{right}"
    if below := _upper_end(text):
        return below[0], f"(-\\infty,{below[1]}"
    if above := _lower_end(text):
        return above[0], f"{above[1]},\\infty)"
    if match := _MEMBER.fullmatch(text):
        return match["x"], match["value"]
    if match := _EQUAL.fullmatch(text):
        return match["x"], f"\\{{{match['value']}\\}}"
    return None
