"""Commands that end together with all their child processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import Any

GRACE_S = 10  # between SIGTERM and SIGKILL
_KILL_S = 5  # until killed processes are gone: one inside a driver's call takes a while


def run(command: list[str], patience: float) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own, and end the rest of its process group after it.

    Raises:
        subprocess.TimeoutExpired: it took longer than `patience` seconds.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, start_new_session=True, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate(timeout=patience)
        finally:
            end(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def end(process: subprocess.Popen[Any], grace: float | None = None) -> None:
    """End the group that `process` leads: SIGTERM, and after `grace` seconds (GRACE_S; 0: at once) SIGKILL."""
    for number, patience in ((signal.SIGTERM, GRACE_S if grace is None else grace), (signal.SIGKILL, _KILL_S)):
        if not patience:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + patience
        while _lives(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not _lives(process):
            break
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_S)


def _lives(process: subprocess.Popen[Any]) -> bool:
    """Whether any process of the group is left, its leader or a child."""
    process.poll()  # else its own zombie counts
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
