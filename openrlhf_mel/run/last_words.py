"""Why a process died, from its output: the exceptions that it reported, and its last lines. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

# vLLM puts a process, a level, a time and a place before each line of its log, and Ray the actor before that:
# (RolloutEngine pid=5, ip=10.0.0.2) (EngineCore pid=7) ERROR 02-01 10:00:00 [core.py:9]
_HEAD = re.compile(
    r"(?P<process>(\([^()]*\bpid=\d+[^()]*\) ?)*)"
    r"(?P<log>(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d: -]+ \[[^\]]*\] ?)?"
)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_HARMLESS = ("DEBUG", "INFO", "WARNING")
_TRACEBACK = "Traceback (most recent call last):"
_LINE = 300  # characters kept per line
_LINES = 4  # lines kept of an exception's message


class LastWords(NamedTuple):
    """The exceptions and the last lines of a process's output.

    Attributes:
        exceptions: as `Type: message`, without duplicates, in the order of reporting. Of chained exceptions Python
            reports the first one first, and a process reports its own before its parent does.
        lines: the last ones.
    """

    exceptions: list[str]
    lines: list[str]

    @property
    def cause(self) -> str | None:
        """The first exception with information: a StopIteration without a message mostly led to the next exception."""
        return next((said for said in self.exceptions if ": " in said), next(iter(self.exceptions), None))


def last_words(output: Iterable[str], number: int) -> LastWords:
    """The last words of lines of output, with the last `number` lines. Holds no more lines in memory."""
    exceptions: dict[str, None] = {}
    reading: dict[str, _Reading] = {}  # by process: the lines of several may be interleaved
    last: deque[str] = deque(maxlen=number)
    for raw in output:
        line = _plain(raw)
        if line.strip():
            last.append(line)
        head = _HEAD.match(line)
        assert head  # all of it is optional
        process, log, level = head["process"], head["log"] or "", head["level"]
        text = line[head.end() :]
        under_way = reading.get(process)
        if under_way and not under_way.take(log, text):
            exceptions[under_way.said()] = None
            del reading[process]
        if text.startswith(_TRACEBACK) and level not in _HARMLESS:
            reading[process] = _Reading(log)
    exceptions |= dict.fromkeys(under_way.said() for under_way in reading.values())
    return LastWords([said for said in exceptions if said], list(last))


class _Reading:
    """A traceback while it is read: frames, which are indented, then the exception."""

    def __init__(self, log: str) -> None:
        self._log = log  # the prefix of each of its lines
        self._message: list[str] = []
        self._code = ""  # of the innermost frame so far

    def take(self, log: str, text: str) -> bool:
        """Take the next line of its process; False when the line is not part of the traceback any more."""
        if text.startswith(_TRACEBACK):
            return False
        foreign = log != self._log  # a line of another thread, logged between the frames
        # Outside of a log nothing marks where a message ends: an indented line continues it, others may be anything.
        goes_on = self._log or text.startswith(" ") or "".join(self._message[-1:]).endswith(":")
        if self._message and (foreign or not text.strip() or not goes_on):
            return False
        if self._message or not (foreign or text.startswith(" ") or not text):
            self._message.append(text.strip())
        elif not foreign and text.startswith("    ") and text.strip(" ^~"):
            self._code = text.strip()
        return len(self._message) < _LINES

    def said(self) -> str:
        """The exception in one line; for an assertion without a message, the asserted expression."""
        said = " ".join(self._message)
        return f"{said}: {self._code}" if said == "AssertionError" and self._code else said


def _plain(line: str) -> str:
    """The line without a terminal's control characters, shortened."""
    line = _COLOUR.sub("", line.rstrip("\r\n"))
    return "".join(c if c.isprintable() else " " for c in line[:_LINE])
