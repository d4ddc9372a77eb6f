"""The processes that may hang, run out of memory or be killed, so that the caller's process does not.

A *nursery* process imports Math-Verify once and forks a worker on request, so that replacing a killed worker takes
milliseconds. It is a fresh interpreter: it never runs the user's main module, and inherits no threads. The nursery
ends when its owner does, and the kernel kills its workers with it (PR_SET_PDEATHSIG), even during a computation that
never returns to Python.
"""

import ctypes
import inspect
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from openrlhf_mel.disk import file_sha256
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier.scorers import MATH

_PR_SET_PDEATHSIG = 1
_OWNER_CHECK_S = 1.0
_MAX_EXTRACTED = 4_000  # characters of an extracted answer that are sent back


def run_nursery(control_fd: int, owner_pid: int, memory_mb: int) -> None:
    """Fork and kill workers on the owner's requests over `control_fd`; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    control = socket.socket(fileno=control_fd)
    try:
        from openrlhf_mel.verifier import comparison

        comparison.warm_up()  # once here, for all workers
    except Exception as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]}).encode())
        os._exit(1)
    control.send(b'{"ready": true}')
    control.settimeout(_OWNER_CHECK_S)
    children: set[int] = set()
    while True:
        try:
            request, fds, _, _ = socket.recv_fds(control, 100, 1)
        except TimeoutError:
            # A forked copy of the owner may keep the other end open after the owner's death.
            if os.getppid() != owner_pid:
                os._exit(0)
            continue
        if not request:
            os._exit(0)
        operation, number = request.decode().split()
        pid = int(number)
        if operation == "fork":
            pid = _fork_worker(control, fds[0], memory_mb)
            children.add(pid)
        elif pid in children:  # else it was the child of an earlier nursery, and died with that
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            children.remove(pid)
        control.send(json.dumps({"pid": pid}).encode())


def _fork_worker(control: socket.socket, fd: int, memory_mb: int) -> int:
    nursery_pid = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    try:
        control.close()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == nursery_pid:  # else the nursery died before the line above took effect
            limit = memory_mb * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _serve(Connection(fd), limit)
    finally:
        os._exit(0)


def _serve(owner: Connection, memory_limit: int) -> None:
    """Answer jobs until the owner closes the connection or the memory in use requires a new process.

    What a scorer's module takes (torch alone: 600 MiB) is not counted: the next process would need it as well.
    """
    known = {MATH}  # scorers that have judged here
    taken = 0  # bytes of address space that their first jobs have left in use
    while True:
        try:
            job = json.loads(owner.recv_bytes())
        except EOFError:
            return
        before = _address_space()
        try:
            status, extracted = _judge(job)
        except MemoryError as error:
            status, extracted = "error", _reason(job, error)
        except Exception as error:
            # sympy raises any kind of exception on strange input; each means that there is no judgement.
            status, extracted = "error", _reason(job, error)
        now = _address_space()
        if job["scorer"] not in known:
            taken += max(0, now - before)
            if job["kind"] != "load":  # its first call may import more
                known.add(job["scorer"])
        tired = now - taken > (memory_limit - taken) // 2
        owner.send_bytes(json.dumps([status, extracted and extracted[:_MAX_EXTRACTED], tired]).encode())
        if tired:
            return


def _reason(job: dict[str, str], error: BaseException) -> str | None:
    """What a function of the user's own raised; None of a built-in scorer."""
    from openrlhf_mel.verifier import scorers

    return None if job["scorer"] in scorers.SCORERS else f"{type(error).__name__}: {error}"[:400]


def _judge(job: dict[str, str]) -> tuple[str, str | None]:
    """A job's status, and beside it: the answer that was judged; of a gold why it cannot be used; of a scorer its file's hash."""
    from openrlhf_mel.verifier import comparison, scorers

    if job["kind"] == "lenient":
        return comparison.judge_lenient(job["gold"], job["text"])
    if job["kind"] == "load":
        try:
            return "correct", _file_hash(scorers.load(job["scorer"]))
        except UserError as error:
            return "error", str(error)
    scorer = scorers.find(job["scorer"])
    if job["kind"] == "gold":
        reason = scorer.fault(job["gold"], job["question"])
        return ("error", reason) if reason else ("correct", None)
    return scorer.judge(job["text"], job["gold"], job["question"]), job["text"]


def _file_hash(function: Callable[..., Any]) -> str | None:
    """The SHA-256 of the file that a function stands in; None of one without."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        return file_sha256(Path(path)) if path else None
    except (TypeError, OSError):
        return None


def _address_space() -> int:
    """Bytes of address space in use, which the limit counts."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()
