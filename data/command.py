"""What both commands share: how they end, their progress bars, and what a manifest says of the environment."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable

from tqdm import tqdm

from openrlhf_mel import __version__
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import VerifierError

_PACKAGES = ("math-verify", "sympy", "latex2sympy2_extended", "pyarrow", "rapidfuzz", "datasets")


def run(work: Callable[[], object], after: str = "nothing was changed in the output folder") -> int:
    """Do `work`; returns the exit code: 0, 2 for bad input, 1 for a disk or a machine that fails, 130 when interrupted.

    `after` says what is left when the machine fails.
    """
    try:
        work()
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
    return 0


def progress(what: str, total: int | None, unit: str) -> tqdm:
    """A progress bar on standard error; in a log file a line every ten seconds at most."""
    interval = 0.2 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=f"{what:<18}", unit=f" {unit}", mininterval=interval, dynamic_ncols=True)


def versions() -> dict[str, str]:
    """What the outputs may depend on."""
    return {"openrlhf_mel": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
