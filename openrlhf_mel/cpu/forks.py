"""Forks of this process in the place of new Python processes, so that imports are done once.

Torch, DeepSpeed and transformers take 10 core-seconds to import, vLLM 4 more; a run has five processes that need them.
Ray's workers start through `py_executable`, vLLM's core through `multiprocessing`: both take the path of a program that
behaves as `python` does. A process that has imported Ray cannot be forked: Ray reads a worker's environment when it is
imported.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import multiprocessing.spawn
import os
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_CLIENT = Path(__file__).with_name("fork_client.py")
_MOST_FILES = 253  # that Linux passes on at once
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def forks() -> Iterator[str]:
    """Yields the path of a program that stands for `python` and runs in a fork of this process as it is now.

    It takes a script or `-c CODE` with arguments, and has their environment, working directory, open files and exit
    code. When it is killed, so is its fork; when this process ends, or the context, all of them are.
    """
    folder = Path(tempfile.mkdtemp(prefix="mel-forks-"))
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.join([sys.executable, "-IS", str(_CLIENT), f"{folder}/socket"])} "$@"\n'
    )
    program.chmod(0o700)
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, theirs:
        listener.bind(f"{folder}/socket")
        listener.listen()
        pid = _fork()
        if not pid:
            ours.close()
            _Server(listener, theirs, str(program)).run()
    try:
        yield str(program)
    finally:
        ours.close()
        os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)


class _Server:
    """Answers each connection with a fork, in a process of its own that it ends when `owner` is closed."""

    def __init__(self, listener: socket.socket, owner: socket.socket, program: str) -> None:
        self._program = program
        self._selector = selectors.DefaultSelector()
        self._selector.register(owner, selectors.EVENT_READ, self._end)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._answer(listener.accept()[0]))
        self._forks: set[int] = set()

    def run(self) -> NoReturn:
        _die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the owner, who says when to end
        while True:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:  # else an event before this one has closed it
                    key.data()

    def _end(self) -> NoReturn:
        for pid in self._forks:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def _answer(self, connection: socket.socket) -> None:
        files: list[int] = []
        try:
            head, files, _, _ = socket.recv_fds(connection, 4, _MOST_FILES)
            request = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
            pid = _fork()
            if not pid:
                _run(request, files, self._program)
            self._forks.add(pid)
            connection.sendall(pid.to_bytes(4, "big"))
        except (OSError, ValueError):  # the client starts Python itself, or is gone
            connection.close()
            return
        finally:
            for file in files:
                os.close(file)
        ended = os.pidfd_open(pid)
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._tell(pid, ended, connection))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._kill(pid, connection))

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


def _run(request: dict[str, Any], files: list[int], program: str) -> NoReturn:
    """Be the process that was asked for, and end as Python ends."""
    code = 1
    try:
        _die_with_parent()
        _take_signals(request["group"], request["blocked"], request["ignored"])
        atexit._clear()  # what the owner has to tidy up is the owner's
        _take_files(files, request["files"])
        _take_environment(request["env"])
        os.chdir(request["cwd"])
        multiprocessing.spawn.set_executable(program)
        code = _execute(request["argv"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _execute(argv: list[str]) -> int:
    """Run `SCRIPT [ARGUMENT ...]` or `-c CODE [ARGUMENT ...]` as `__main__`. Returns the exit code."""
    try:
        if argv[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *argv[2:]], ""
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(argv[1], "<string>", "exec"), main.__dict__)
        else:
            sys.argv, sys.path[0] = argv, os.path.dirname(argv[0])
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _take_files(files: list[int], numbers: list[int]) -> None:
    """Give `files` the client's `numbers`, and close all else."""
    above = max(max(numbers), *files) + 1
    moved = [os.dup2(file, above + i) for i, file in enumerate(files)]
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in numbers:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(number)


def _take_signals(group: int, blocked: list[int], ignored: list[int]) -> None:
    """Ray keeps a terminal's Ctrl-C from its workers: the fork blocks and ignores what its client does.

    It cannot join the client's process group, which may be another session's, but leaves the owner's when the client has.
    """
    if group != os.getpgrp():
        os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _take_environment(new: dict[str, str]) -> None:
    """Change what differs, and nothing else: Ray finds the place of a process's title beside the first environment."""
    for name in os.environ.keys() - new.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in new.items() if os.environ.get(name) != value})


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads: those that are there, Arrow's and OpenBLAS's, see to forks themselves.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
