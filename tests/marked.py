"""Find the processes that a test starts by a mark in their environment, which their children inherit."""

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

_MARK = "MEL_TEST"


def mark_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark all processes that the test starts from now on."""
    monkeypatch.setenv(_MARK, uuid.uuid4().hex)


def left(wanted: int) -> bool:
    """Return whether `wanted` marked processes are left; ending ones get some time."""
    mark = f"{_MARK}={os.environ[_MARK]}\0".encode()
    for _ in range(200):
        count = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                count += mark in path.read_bytes()
        if count == wanted:
            return True
        time.sleep(0.1)
    return False
