"""Signal handling of a foreground process, for processes to which a test sends signals.

Background jobs of a shell (`make test &`) ignore SIGINT, those of nohup SIGHUP, and children inherit this.
"""

import signal


def default_signals() -> None:
    """Reset signals; to be called in the child, as `preexec_fn` of `subprocess`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
