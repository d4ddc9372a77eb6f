"""The one exception a user is meant to read: it says what was wrong, where, and what to do."""

_LONGEST = 300  # characters of another package's message


class UserError(Exception):
    """Bad input. The entry prints its messages alone (no traceback) and exits with code 2.

    `args` are the messages, one for each thing that is wrong; as text they stand on lines of their own.
    """

    def __str__(self) -> str:
        return "\n".join(self.args)


class HeldError(UserError):
    """Another process holds what this one needs. It may be over in a while: the entry's exit code is 69."""


class Stopped(Exception):
    """A stop was asked for (the file `stop` in the run's folder). What is done so far is saved before it goes up."""


def first_line(error: BaseException) -> str:
    """Another package's error in one line, not long: its type, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:_LONGEST]}"
