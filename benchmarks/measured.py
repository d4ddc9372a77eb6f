"""A command's seconds and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """Seconds, the peak memory (GB) of the process and its children together, and its output."""

    seconds: float
    memory: float
    output: str


def run(argv: Sequence[object]) -> Cost:
    """Run a command in the repository's root; on failure exit with its stderr."""
    started, peak = time.monotonic(), 0
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        subprocess.Popen(list(map(str, argv)), cwd=ROOT, stdout=out, stderr=err) as process,
    ):
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(tree))
            time.sleep(0.05)
        seconds = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(err.read().decode())
        return Cost(seconds, peak / 1e9, out.read().decode())


def _resident(tree: psutil.Process) -> int:
    """Resident memory of the process tree in bytes."""
    total = 0
    for process in (tree, *tree.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
