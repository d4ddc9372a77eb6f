"""The result of a check of the first hour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A check's outcome: passed (None: cannot be checked here), the observation, and what to do about a failure."""

    name: str
    passed: bool | None
    seen: str
    advice: str = ""

    def __str__(self) -> str:
        word = {True: "pass", False: "FAIL", None: "none"}[self.passed]
        return f"{word}  {self.name}: {self.seen}" + (f"\n      -> {self.advice}" if self.passed is False else "")
