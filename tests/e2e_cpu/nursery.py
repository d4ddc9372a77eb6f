"""Processes that start with everything imported: one process imports upstream's trainer once and forks on request.

Importing takes 6 to 20 s, a fork some milliseconds. So every test gets fresh ranks, which are killed at a time limit.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

LIMIT_S = 240.0
# Modules that ranks use, imported once before forking.
_USED = (
    "openrlhf_mel.cpu.policy",
    "openrlhf_mel.settings.resolve",
    "openrlhf.utils",
    "deepspeed",
    "peft",
    "torch.multiprocessing",
    "transformers.models.qwen3.modeling_qwen3",
)


def run(function: Callable[..., Any], *args: Any, ranks: int = 1, limit: float = LIMIT_S) -> list[Any]:
    """Run `function(rank, *args)` in `ranks` processes at once; return each one's result.

    Raises AssertionError with the traceback when one raised, or when they were not done after `limit` seconds.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        connection = _nursery()
        connection.send((function, args, ranks, limit, Path(folder)))
        if failure := connection.recv():
            raise AssertionError(failure)
        return [torch.load(_result(Path(folder), rank), weights_only=False) for rank in range(ranks)]


@functools.cache
def _nursery() -> Connection:
    connection, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(other,))
    process.start()
    other.close()
    atexit.register(connection.close)  # ends it; registered after multiprocessing's hook, so it runs first
    return connection


def _main(connection: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from openrlhf_mel.cpu import standins

    standins.install()
    for name in _USED:
        importlib.import_module(name)
    gc.freeze()  # DeepSpeed collects garbage at every start: 0.7 s with everything imported
    while True:
        try:
            function, args, ranks, limit, folder = connection.recv()
        except EOFError:
            return
        connection.send(_fork(connection, function, args, ranks, limit, folder))


def _fork(connection: Connection, function: Any, args: tuple, ranks: int, limit: float, folder: Path) -> str | None:
    """Run the ranks; return None, or the failure's description."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_child, args=(function, rank, args, folder)) for rank in range(ranks)]
    for child in children:
        child.start()
    deadline = time.monotonic() + limit
    try:
        # Until all are done, one failed (the others would wait for it), or the caller is gone.
        while (running := [c for c in children if c.exitcode is None]) and not any(c.exitcode for c in children):
            ready = wait([connection, *(c.sentinel for c in running)], timeout=deadline - time.monotonic())
            if not ready:
                return f"{len(running)} of {ranks} ranks were not done after {limit} s"
            if connection in ready:
                break
        failed = [rank for rank, child in enumerate(children) if child.exitcode]
        texts = [p.read_text() if (p := folder / f"{rank}.txt").exists() else "died" for rank in failed]
        return "\n".join(f"rank {rank}: {text}" for rank, text in zip(failed, texts, strict=True)) or None
    finally:
        for child in children:
            child.kill()
            child.join()


def _child(function: Callable[..., Any], rank: int, args: tuple, folder: Path) -> None:
    import torch

    try:
        torch.save(function(rank, *args), _result(folder, rank))
    except BaseException:
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
        raise SystemExit(1) from None


def _result(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.pt"
