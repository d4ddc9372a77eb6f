"""Exceptions for the user: they say what is wrong, where, and what to do."""

import contextlib
from collections.abc import Iterator

_LONGEST = 300  # characters of another package's message


class UserError(Exception):
    """Bad input. The command prints its messages without a traceback and exits with code 2.

    `args` are the messages, one per error; as text each is on a line of its own.
    """

    def __str__(self) -> str:
        return "\n".join(self.args)


class HeldError(UserError):
    """Another process holds what this one needs, perhaps not for long: the command exits with code 69."""


class Stopped(Exception):
    """A stop was requested (the file `stop` in the run's folder). The work so far is saved before it propagates."""


@contextlib.contextmanager
def collecting(messages: list[str]) -> Iterator[None]:
    """Append the messages of a UserError to `messages` and continue."""
    try:
        yield
    except UserError as error:
        messages.extend(error.args)


def raise_all(messages: list[str]) -> None:
    """Raise one UserError with all messages; nothing where there are none."""
    if messages:
        raise UserError(*messages)


def first_line(error: BaseException) -> str:
    """Another package's error in one line, not long: its type, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:_LONGEST]}"
