"""Replaces `python` for `forks`: requests a fork that runs its command line, and lives as long as the fork.

    python -IS fork_client.py SOCKET (SCRIPT | -c CODE) [ARGUMENT ...]

Imports nothing of this package, to start fast. Where a fork is not available or not possible, it becomes Python itself.
"""

import array
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys

_WITH_VALUE, _ALONE = ("-X", "-W"), ("-u", "-B", "-E", "-I", "-s", "-S", "-O", "-OO")  # of Python's options
_TRACKER = "from multiprocessing.resource_tracker import main"  # has to outlive the rest, and imports little
_CAUGHT = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT, signal.SIGTSTP}


def main() -> None:
    """Send the request; end as the fork ends."""
    path, *argv = sys.argv[1:]
    command = _without_options(argv)
    files = [number for number in map(int, os.listdir("/proc/self/fd")) if number < 3 or _inherited(number)]
    files = [number for number in files if _is_open(number)]
    connection: socket.socket | None = None
    fork = 0
    if _can_be_a_fork(command):
        with contextlib.suppress(OSError):
            connection, fork = _ask(path, command, files)
    if connection is None or not fork:
        os.execv(sys.executable, [sys.executable, *argv])
    for number in _CAUGHT:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(fork, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _close(files)
    answer = connection.recv(4, socket.MSG_WAITALL)
    code = int.from_bytes(answer, "big", signed=True) if len(answer) == 4 else 1
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _can_be_a_fork(command: list[str]) -> bool:
    """Whether it is a script or `-c CODE`. Python itself runs other, rare forms."""
    if command[:1] == ["-c"]:
        return len(command) > 1 and _TRACKER not in command[1]
    return bool(command) and not command[0].startswith("-")


def _ask(path: str, command: list[str], files: list[int]) -> tuple[socket.socket, int]:
    with socket.socket(socket.AF_UNIX) as first:  # its number may be that of a standard file
        connection = socket.socket(fileno=fcntl.fcntl(first.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
    connection.connect(path)
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "argv": command, "cwd": os.getcwd(), "env": dict(os.environ), "files": files, "umask": umask,
        "group": os.getpgrp(), "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "ignored": [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN],
    }  # fmt: skip
    body = json.dumps(request).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
    connection.sendmsg([len(body).to_bytes(4, "big")], rights)
    connection.sendall(body)
    return connection, int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")


def _close(files: list[int]) -> None:
    """Close files that the fork has now: a pipe has to end when the fork closes it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in files:
        os.dup2(nothing, number) if number < 3 else os.close(number)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
        return True
    except OSError:  # the listing's own
        return False


def _inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


def _without_options(argv: list[str]) -> list[str]:
    """Python's options have no effect on an interpreter that already runs."""
    while argv and (argv[0] in _ALONE or argv[0][:2] in _WITH_VALUE):
        argv = argv[2 if argv[0] in _WITH_VALUE else 1 :]
    return argv


main()
