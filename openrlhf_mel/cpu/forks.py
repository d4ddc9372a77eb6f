"""Forks of this process instead of new Python processes, so that packages are imported once.

Importing torch, DeepSpeed and transformers takes 10 core-seconds, vLLM 4 more; five processes of a run need them. Ray's
workers start through `py_executable`, vLLM's core through `multiprocessing`: both take the path of a program that
behaves as `python` does. A process that has imported Ray cannot be forked: Ray reads a worker's environment during its
import.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from openrlhf_mel.cpu.forked import become

_CLIENT = Path(__file__).with_name("fork_client.py")
_MOST_FILES = 253  # that Linux passes in one message
_PATIENCE_S = 5.0  # for a client to complete its request
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def forks(ready: Callable[[], None] = lambda: None) -> Iterator[str | None]:
    """Yields the path of a program that replaces `python` and runs in a fork of this process in its current state.

    It takes a script or `-c CODE` with arguments. The fork has the program's environment, working directory, open
    files, signals and exit code, but this process's priority and limits. When the program is killed, so is its fork;
    when this process or the context ends, all forks are killed. Yields None where such a program cannot be run, as in a
    temporary folder mounted noexec.

    Args:
        ready: called in each fork when it has the environment of the process that asked for it.
    """
    folder = Path(tempfile.mkdtemp(prefix="mel-forks-"))
    ours, theirs = socket.socketpair()
    server = None
    try:
        with theirs, contextlib.suppress(OSError):
            server = _start(folder, theirs, ready)
        yield str(folder / "python") if server and _works(folder / "python") else None
    finally:
        with contextlib.suppress(OSError):  # it has already ended
            ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        if server:
            with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored
                os.waitpid(server, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, owner: socket.socket, ready: Callable[[], None]) -> int:
    """Write the program, and fork its server. Raises OSError where this machine does not allow it."""
    os.close(os.pidfd_open(os.getpid()))
    program = folder / "python"
    command = [sys.executable, "-IS", str(_CLIENT), f"{folder}/socket"]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    program.chmod(0o700)
    parent = os.getpid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen(64)
        pid = _fork()
        if not pid:
            try:
                _Server(listener, owner, parent, program, ready).run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
    return pid


def _works(program: Path) -> bool:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return not subprocess.run([program, "-c", ""], timeout=60, stderr=subprocess.DEVNULL).returncode
    return False


class _Server:
    """Answers each connection with a fork, in a process of its own that ends when its owner does."""

    def __init__(
        self, listener: socket.socket, owner: socket.socket, parent: int, program: Path, ready: Callable[[], None]
    ) -> None:
        self._program, self._ready = program, ready
        self._forks: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(owner, selectors.EVENT_READ, self._end)
        self._selector.register(os.pidfd_open(parent), selectors.EVENT_READ, self._end)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._answer(listener.accept()[0]))
        if os.getppid() != parent:
            self._end()

    def run(self) -> NoReturn:
        # Signals of a terminal are for the owner, which ends the server; one for a fork waits until the fork can take
        # it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:  # else an event before this one has closed it
                    key.data()

    def _end(self) -> NoReturn:
        for pid in self._forks:
            os.kill(pid, signal.SIGKILL)
        for pid in self._forks:
            os.waitpid(pid, 0)
        shutil.rmtree(self._program.parent, ignore_errors=True)
        os._exit(0)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE_S)
        files: list[int] = []
        try:
            head, files, _, _ = socket.recv_fds(connection, 4, _MOST_FILES)
            body = b""
            while len(body) < int.from_bytes(head, "big"):
                body += (part := connection.recv(2**20))
                if not part:
                    raise OSError
            request, server = json.loads(body), os.getpid()
            pid = _fork()
            if not pid:
                _end_with(server)
                become(request, files, str(self._program), self._ready)
        except (OSError, ValueError):  # the client starts Python itself, or is gone
            connection.close()
            return
        finally:
            for file in files:
                os.close(file)
        self._forks.add(pid)
        ended = os.pidfd_open(pid)
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._tell(pid, ended, connection))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._kill(pid, connection))
        with contextlib.suppress(OSError):  # the client was killed, as the selector is about to say
            connection.sendall(pid.to_bytes(4, "big"))

    def _kill(self, pid: int, connection: socket.socket) -> None:
        """The client was killed."""
        self._selector.unregister(connection)
        os.kill(pid, signal.SIGKILL)

    def _tell(self, pid: int, ended: int, connection: socket.socket) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._forks.remove(pid)
        self._selector.unregister(ended)
        os.close(ended)
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        with connection, contextlib.suppress(OSError):
            connection.sendall(code.to_bytes(4, "big", signed=True))


def _fork() -> int:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads. The existing ones, Arrow's and OpenBLAS's, handle forks themselves.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
