"""A table in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One line per row; a cell from outside cannot break a row."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_escaped, cells))} |\n" for cells in lines)


def one_line(text: str) -> str:
    """The text in one line: a name from outside must not break a row or a heading."""
    return " ".join(text.split())


def _escaped(cell: str) -> str:
    return one_line(cell).replace("|", "\\|")
