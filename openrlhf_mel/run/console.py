"""A run's output: everything goes to its log, one line per step and the warnings to the console."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from openrlhf_mel import disk
from openrlhf_mel.run import records


@contextlib.contextmanager
def logs_to(path: Path) -> Iterator[TextIO]:
    """Send everything that this process and its children print to `path`; yields the original console."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "ab", buffering=0) as log, os.fdopen(os.dup(1), "w", buffering=1) as console:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield console
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for old, number in zip(saved, (1, 2), strict=True):
                os.dup2(old, number)
                os.close(old)


@contextlib.contextmanager
def progress(run_dir: Path, console: TextIO) -> Iterator[None]:
    """Print one line per step on `console`, from the run's own `metrics.jsonl`, and the run's warnings."""
    print(f"run: {run_dir} (full log: {run_dir / 'logs' / 'train.log'})", file=console)
    done = threading.Event()
    seen = {path: sum(1 for _ in disk.read_lines(path)) for path in _followed(run_dir)}

    def follow() -> None:
        while True:
            last = done.wait(1.0)
            for path in _followed(run_dir):
                rows = list(disk.read_lines(path))
                for row in rows[seen[path] :]:
                    print(_line(row), file=console)
                seen[path] = len(rows)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _followed(run_dir: Path) -> list[Path]:
    return [run_dir / records.METRICS, run_dir / records.WARNINGS]


def _line(row: dict[str, Any]) -> str:
    if "warning" in row:
        return f"warning: {row['warning']}"
    parts = [f"step {row['step']}"]
    if "reward_mean" in row:
        parts.append(f"reward {row['reward_mean']:.3f}")
    if "mel/kept" in row:
        parts.append(f"kept {row['mel/kept']}/{row['mel/candidates']}")
    if "loss/nll" in row:
        parts.append(f"nll {row['loss/nll']:.3f}")
    return "  ".join([*parts, f"{row['seconds']:.0f} s"])
