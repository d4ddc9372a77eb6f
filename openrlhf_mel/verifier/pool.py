"""The owner's side of the workers: queue, time limit, and replacement of workers that die."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from openrlhf_mel import child_process
from openrlhf_mel.verifier.scorers import MATH
from openrlhf_mel.verifier.verdict import Status, VerifierError

_START_LIMIT_S = 120.0  # for importing sympy on a busy machine with a slow disk
_ATTEMPTS = 2
_BOOT = "import sys; from openrlhf_mel.verifier.worker import run_nursery; run_nursery(*map(int, sys.argv[1:]))"


class Outcome(NamedTuple):
    """The result of a job: a status, and the worker's details (`worker.judge`)."""

    status: Status
    extracted: str | None = None


class Nursery:
    """A process that forks and kills workers for this one; safe to use from several threads."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self) -> tuple[int, Connection]:
        """Start a worker; returns its process id and the connection to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = self._ask(b"fork 0", [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return pid, Connection(ours.detach())

    def kill(self, pid: int) -> None:
        """Kill a worker. It is the nursery's child and is reaped there, so no other process can have its id yet."""
        with suppress(VerifierError):  # a nursery that died took its workers with it
            self._ask(f"kill {pid}".encode(), [], restart=False)

    def close(self) -> None:
        """End the nursery, and its workers with it."""
        with self._lock:
            self._discard()

    def _ask(self, request: bytes, fds: list[int], restart: bool = True) -> int:
        with self._lock:
            for _ in range(_ATTEMPTS):
                if self._control is None:
                    if not restart:
                        break
                    self._start()
                assert self._control is not None  # `_start` raises where it cannot set it
                try:
                    socket.send_fds(self._control, [request], fds)
                    pid: int = _receive(self._control)["pid"]
                    return pid
                except OSError:
                    self._discard()
        raise VerifierError("the process that starts the verifier's workers died; is the machine out of memory?")

    def _start(self) -> None:
        arguments = [str(os.getpid()), str(self._memory_mb)]
        control, self._process = child_process.start(_BOOT, *arguments, kind=socket.SOCK_SEQPACKET)
        self._control = control
        control.settimeout(_START_LIMIT_S)
        try:
            answer = _receive(control)
        except OSError as error:
            self._discard()
            raise VerifierError(
                f"the verifier's worker process did not start ({error or 'it ended at once'})"
            ) from None
        if "error" in answer:
            self._discard()
            raise VerifierError(f"the verifier's worker cannot import Math-Verify ({answer['error']}): reinstall it")

    def _discard(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _receive(control: socket.socket) -> dict[str, Any]:
    data = control.recv(4096)
    if not data:
        raise ConnectionResetError("it ended at once")
    answer: dict[str, Any] = json.loads(data)
    return answer


class Pool:
    """`workers` threads, each with one worker process of its own at most, that take jobs from one queue."""

    def __init__(self, workers: int, timeout_s: float, memory_mb: int) -> None:
        self.owner_pid = os.getpid()
        self._timeout_s = timeout_s
        self._jobs: queue.SimpleQueue[tuple[bytes, Future[Outcome]] | None] = queue.SimpleQueue()
        self._nursery = Nursery(memory_mb)
        self._pids: dict[int, int] = {}  # thread id -> process id of its worker
        self._threads = [threading.Thread(target=self._work, name=f"verifier-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, kind: str, gold: str, text: str = "", scorer: str = MATH, question: str = "") -> Future[Outcome]:
        """Queue one job for the next free worker; `worker` says what each kind is."""
        future: Future[Outcome] = Future()
        job = {"kind": kind, "gold": gold, "text": text, "scorer": scorer, "question": question}
        # ASCII JSON: a lone surrogate in a model's output has no UTF-8 form.
        self._jobs.put((json.dumps(job).encode("ascii"), future))
        return future

    def worker_pids(self) -> list[int]:
        """The process ids of the running workers."""
        return list(self._pids.values())

    def close(self) -> None:
        """End the threads after the jobs already queued, and the processes with them."""
        for _ in self._threads:
            self._jobs.put(None)
        if threading.current_thread() not in self._threads:
            end = time.monotonic() + self._timeout_s + 5  # for all of them together
            for thread in self._threads:
                thread.join(timeout=max(0.0, end - time.monotonic()))
        self._nursery.close()

    def _work(self) -> None:
        worker: _Worker | None = None
        while (job := self._jobs.get()) is not None:
            request, future = job
            try:
                outcome, worker = self._run(request, worker)
                future.set_result(outcome)
            except BaseException as error:
                worker = None
                future.set_exception(error)
        if worker is not None:
            self._end(worker)

    def _run(self, request: bytes, worker: _Worker | None) -> tuple[Outcome, _Worker | None]:
        """Run one job. A worker that dies is replaced, and the job is tried once more in the remaining time."""
        left = self._timeout_s
        for _ in range(_ATTEMPTS):
            worker = worker or self._begin()
            started = time.monotonic()
            try:
                worker.connection.send_bytes(request)
                if not worker.connection.poll(left):
                    self._end(worker)
                    return Outcome("timeout"), None
                status, extracted, tired = json.loads(worker.connection.recv_bytes())
            except (EOFError, OSError):
                left = max(0.0, left - (time.monotonic() - started))  # without waiting for other threads' nursery
                self._end(worker)
                worker = None
                continue
            if tired:
                self._end(worker)
                worker = None
            return Outcome(status, extracted), worker
        return Outcome("error"), None

    def _begin(self) -> _Worker:
        worker = _Worker(*self._nursery.fork())
        self._pids[threading.get_ident()] = worker.pid
        return worker

    def _end(self, worker: _Worker) -> None:
        self._pids.pop(threading.get_ident(), None)
        worker.connection.close()
        self._nursery.kill(worker.pid)


class _Worker(NamedTuple):
    pid: int
    connection: Connection
