"""Inequalities in one unknown, joined by "or", as the union of intervals that they describe. Pure."""

import re

from openrlhf_mel.verifier.structure import elements

_UNKNOWN = r"(?P<x>[A-Za-z]|\\[a-z]+)"
_LESS, _MORE = r"(?P<op><|\\le(?![A-Za-z]))", r"(?P<op>>|\\ge(?![A-Za-z]))"
_VALUE = r"(?P<value>[^<>=]+?)"
_BELOW = re.compile(rf"\s*(?:{_UNKNOWN}\s*{_LESS}\s*{_VALUE})\s*")
_ABOVE = re.compile(rf"\s*(?:{_UNKNOWN}\s*{_MORE}\s*{_VALUE})\s*")
_BETWEEN = re.compile(
    rf"\s*(?P<low>[^<>=]+?)\s*(?P<op><|\\le(?![A-Za-z]))\s*{_UNKNOWN}\s*(?P<op2><|\\le(?![A-Za-z]))\s*{_VALUE}\s*"
)
_MEMBER = re.compile(rf"\s*{_UNKNOWN}\s*\\in(?![A-Za-z])\s*(?P<value>.+?)\s*")


def union(text: str) -> str | None:
    """Rewrite "x<1, x>2", read as alternatives, as "(-\\infty,1)\\cup(2,\\infty)"; None when a part is anything else."""
    parts = elements(text)
    intervals = [_interval(part) for part in parts]
    if len(parts) < 2 or None in intervals or len({name for name, _ in intervals}) != 1:
        return None
    return "\\cup ".join(interval for _, interval in intervals)


def _interval(text: str) -> tuple[str, str] | None:
    """The unknown and its interval."""
    if match := _BETWEEN.fullmatch(text):
        left, right = ("(" if match["op"] == "<" else "["), (")" if match["op2"] == "<" else "]")
        return match["x"], f"{left}{match['low']},{match['value']}{right}"
    if match := _BELOW.fullmatch(text):
        return match["x"], f"(-\\infty,{match['value']}{')' if match['op'] == '<' else ']'}"
    if match := _ABOVE.fullmatch(text):
        return match["x"], f"{'(' if match['op'] == '>' else '['}{match['value']},\\infty)"
    if match := _MEMBER.fullmatch(text):
        return match["x"], match["value"]
    return None
