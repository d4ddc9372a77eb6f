"""Tables of substitutions, applied in order: later rows see the results of earlier ones. Pure."""

import re
from collections.abc import Iterable

Substitutions = tuple[tuple[re.Pattern[str], str], ...]


def table(rows: Iterable[tuple[str, str]]) -> Substitutions:
    """Compile rows of (pattern, what stands in its place)."""
    return tuple((re.compile(pattern), instead) for pattern, instead in rows)


def substitute(rows: Substitutions, text: str) -> str:
    """Apply every row, in the table's order."""
    for pattern, instead in rows:
        text = pattern.sub(instead, text)
    return text
