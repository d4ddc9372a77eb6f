"""Signals as a process in the foreground has them, for processes that a test sends signals to.

A shell has its background jobs ignore SIGINT, nohup has them ignore SIGHUP, and children inherit that: `make test &`.
"""

import signal


def default_signals() -> None:
    """To be called in the child: `preexec_fn` of `subprocess`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
