"""A check's results: errors, which are refused, and warnings. Checks are generators, so that all are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from openrlhf_mel.errors import UserError


@dataclass(frozen=True)
class Problem:
    """A line for the user: flag or file at fault, found, expected, what to do."""

    text: str
    error: bool = True


def warning(text: str) -> Problem:
    """A problem that does not stop the run."""
    return Problem(text, error=False)


def refusals(check: Callable[..., Any], *args: Any) -> Iterator[Problem]:
    """The messages that one of the training command's own checks raises, as problems."""
    try:
        check(*args)
    except UserError as error:
        yield from map(Problem, error.args)
