"""A process that serves forks of itself, and helpers for the tests of them."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

LIMIT_S = 30
REPO = Path(__file__).resolve().parents[2]
_OWNER = """
import atexit, colorsys, numpy, sys, tempfile
from openrlhf_mel.cpu.forks import forks
atexit.register(print, "the owner ends")
kept = tempfile.TemporaryDirectory(dir=sys.argv[1])
with forks() as program:
    print(program, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has imported `colorsys`, keeps a file in `folder/kept`, and exits when its stdin closes.

    Its attribute `program` is the path to run in place of Python.
    """
    (folder / "kept").mkdir()
    command, env = [sys.executable, "-c", _OWNER, folder / "kept"], os.environ | {"PYTHONPATH": str(REPO)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:
        process.program = process.stdout.readline().strip()
        yield process
        process.kill()


def run(program: str, *args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=LIMIT_S, **options)


def gone(pid: int) -> bool:
    """Return whether the process ends within the limit."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def sleeping(program: str):
    """Start a fork that sleeps; yield its client process and its pid."""
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([program, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        yield client, int(client.stdout.readline())
        client.kill()
