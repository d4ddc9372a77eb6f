"""A Python process of our own that runs given code, and the socket to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import IO


def start(
    code: str,
    *arguments: str,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Run `code` in a new Python that imports what this one can; returns our end of a pair of sockets, and the process.

    In the child `sys.argv[1]` is the number of the other end, and `arguments` follow. It leads a session: its children can
    be killed with it, and the terminal's Ctrl-C is for its owner to handle.

    Args:
        kind: of the sockets.
        environment: variables beside this process's own.
        output: where standard output and standard error go; nowhere by default.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    stdout = subprocess.DEVNULL if output is None else output
    try:
        with theirs:
            return ours, subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
                | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stdout,
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
