"""Shared by the commands: exit codes and messages, progress bars, and the versions in a manifest."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import signal
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from tqdm import tqdm

from openrlhf_mel import __version__
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import VerifierError
from toolkit.outputs import MANIFEST

T = TypeVar("T")
_PACKAGES = ("math-verify", "sympy", "latex2sympy2_extended", "pyarrow", "rapidfuzz", "datasets")
_AFTER = f"the output folder is whole if its {MANIFEST} is there"


def run(work: Callable[[], T], report: Callable[[T], object] = lambda _: None, after: str = _AFTER) -> int:
    """Do `work`, then `report` its result to standard output.

    Returns the exit code: 0; 2 for bad input; 1 for a disk or a machine that fails; 130 when interrupted or terminated.
    `after` is the message about the output in these cases.
    """
    if threading.current_thread() is threading.main_thread():
        # Slurm and a closed terminal end a job by these signals: clean up as with Ctrl-C. An ignored signal stays
        # ignored, as Python does with SIGINT: nohup, or a shell that runs the command in the background, relies on it.
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
    try:
        result = work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; {after}", file=sys.stderr)
        return 1
    except (MemoryError, VerifierError) as error:
        print(f"error: {type(error).__name__}: {error}; {after}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {after}", file=sys.stderr)
        return 130
    try:
        report(result)
        sys.stdout.flush()
    except OSError as error:
        print(f"error: everything is written, but the summary cannot be printed: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def progress(what: str, total: int | None, unit: str) -> tqdm:
    """A progress bar on standard error; in a log file a line every ten seconds at most."""
    interval = 0.2 if sys.stderr.isatty() else 10
    return _Bar(total=total, desc=f"{what:<18}", unit=f" {unit}", mininterval=interval, dynamic_ncols=True)


class _Bar(tqdm):
    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # an interrupt during its creation: there is nothing to close yet
            super().__del__()


def versions() -> dict[str, str]:
    """Versions of the packages on which outputs may depend."""
    return {"openrlhf_mel": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
