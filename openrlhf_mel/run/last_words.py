"""Why a process died, by its output: the exceptions that it told of, and its last lines. Pure."""

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
_LINE = 300  # characters that are kept of one
_LINES = 4  # of an exception's message


class LastWords(NamedTuple):
    """What a process said.

    Attributes:
        exceptions: as `Type: message`, each once, in the order in which they were told. Of exceptions that follow from each
            other Python tells the first one first, and a process tells of its own before its parent does.
        lines: the last ones.
    """

    exceptions: list[str]
    lines: list[str]

    @property
    def cause(self) -> str | None:
        """The first exception that says something: a bare StopIteration is mostly how the next one was come upon."""
        return next((said for said in self.exceptions if ": " in said), next(iter(self.exceptions), None))


def last_words(output: Iterable[str], number: int) -> LastWords:
    """Of lines of output; keeps the last `number`. Holds no more of them than that."""
    exceptions: dict[str, None] = {}
    reading: dict[str, _Reading] = {}  # by process: their lines may be mixed
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
    """A traceback that is being read: frames, which are indented, then the exception."""

    def __init__(self, log: str) -> None:
        self._log = log  # what stands before each of its lines
        self._message: list[str] = []
        self._code = ""  # of the innermost frame so far

    def take(self, log: str, text: str) -> bool:
        """Take the next line of its process; False where it is not part of it any more."""
        if text.startswith(_TRACEBACK):
            return False
        foreign = log != self._log  # a thread's that logs between the frames
        # Outside of a log nothing says where a message ends: an indented line goes on with it, others may be anything.
        goes_on = self._log or text.startswith(" ") or "".join(self._message[-1:]).endswith(":")
        if self._message and (foreign or not text.strip() or not goes_on):
            return False
        if self._message or not (foreign or text.startswith(" ") or not text):
            self._message.append(text.strip())
        elif not foreign and text.startswith("    ") and text.strip(" ^~"):
            self._code = text.strip()
        return len(self._message) < _LINES

    def said(self) -> str:
        """The exception in one line; of an assertion without a message, what was asserted."""
        said = " ".join(self._message)
        return f"{said}: {self._code}" if said == "AssertionError" and self._code else said


def _plain(line: str) -> str:
    """Nothing that a terminal would obey, and not long."""
    line = _COLOUR.sub("", line.rstrip("\r\n"))
    return "".join(c if c.isprintable() else " " for c in line[:_LINE])
