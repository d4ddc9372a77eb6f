"""Stands in the place of `python` for `forks`: asks for a fork that runs its command line, and lives as long as it.

    python -IS fork_client.py SOCKET (SCRIPT | -c CODE) [ARGUMENT ...]

The two share their open files. Imports nothing of this package, to cost nothing. Where no fork can be had it becomes
Python itself.
"""

import array
import json
import os
import signal
import socket
import sys

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Send the request; end as the fork ends."""
    path, *argv = sys.argv[1:]
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    files = [number for number in files if number < 3 or _inherited(number)]
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        request = {
            "argv": _without_options(argv), "cwd": os.getcwd(), "env": dict(os.environ), "files": files,
            "group": os.getpgrp(), "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "ignored": [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN],
        }  # fmt: skip
        body = json.dumps(request).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        connection.sendmsg([len(body).to_bytes(4, "big")], rights)
        connection.sendall(body)
        fork = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    except OSError:
        fork = 0
    if not fork:
        os.execv(sys.executable, [sys.executable, *argv])
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(fork, number))
    answer = connection.recv(4, socket.MSG_WAITALL)
    code = int.from_bytes(answer, "big", signed=True) if len(answer) == 4 else 1
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def _inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # the listing's own
        return False


def _without_options(argv: list[str]) -> list[str]:
    """Python's own options say nothing to an interpreter that runs already."""
    while argv and argv[0].startswith("-") and argv[0] != "-c":
        argv = argv[2 if argv[0] in ("-X", "-W") else 1 :]
    return argv


main()
