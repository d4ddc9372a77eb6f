"""A benchmark's question and its reference answer from a row's cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data import golds
from data.sameness import legible
from data.shuffled_options import with_options
from data.sources import Form, Source
from openrlhf_mel.errors import UserError
from openrlhf_mel.text import without_invisible


def question_and_gold(cells: Mapping[str, Any], form: Form, source: Source, place: str) -> tuple[str, str]:
    """The question's text and its answer; where the form has options, with these below it, and the letter of the right one.

    Raises:
        UserError: naming `place` and the columns at fault.
    """
    problem = cells[form.question]
    if not isinstance(problem, str) or not (text := source.unwrapped(legible(problem)).strip()):
        raise UserError(f"{place}: {form.question!r}: found {problem!r:.80}, expected the question's text")
    gold = _answer(cells, form, form.answer, place)
    if not without_invisible(gold).strip():
        raise UserError(f"{place}: {form.answer!r}: no answer (read as {form.read}); expected one in every row")
    if not form.options:
        return text, gold
    wrong = [_answer(cells, form, column, place) for column in form.options]
    _check_options(dict(zip((form.answer, *form.options), (gold, *wrong), strict=True)), place)
    try:
        return with_options(text, gold, wrong)
    except ValueError as error:
        raise UserError(f"{place}: {', '.join(map(repr, (form.answer, *form.options)))}: {error}") from None


def _answer(cells: Mapping[str, Any], form: Form, column: str, place: str) -> str:
    try:
        return golds.READERS[form.read](cells[column])
    except (golds.WrongType, ValueError) as error:
        raise UserError(f"{place}: {column!r}: {error}") from None


def _check_options(options: Mapping[str, str], place: str) -> None:
    """Refuse an empty option, and two equal ones, by the names of their columns."""
    columns: dict[str, str] = {}  # by the option's text
    for column, option in options.items():
        text = " ".join(option.split())
        if not without_invisible(text).strip():
            raise UserError(f"{place}: {column!r}: the option is empty, expected a text; mend the row, or take it out")
        if text in columns:
            raise UserError(
                f"{place}: {columns[text]!r} and {column!r}: two options are equal, {text!r:.60}; expected different ones: "
                "mend the row, or take it out"
            )
        columns[text] = column
