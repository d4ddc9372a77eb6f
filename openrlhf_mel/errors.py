"""The one exception a user is meant to read: it says what was wrong, where, and what to do."""


class UserError(Exception):
    """Bad input. The entry prints its message alone (no traceback) and exits with code 2."""


class Stopped(Exception):
    """A stop was asked for (the file `stop` in the run's folder). What is done so far is saved before it goes up."""
