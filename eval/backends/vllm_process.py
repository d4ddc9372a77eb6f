"""The owner's side of an engine's process: start, messages, end, and the cause of its death."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from eval.backends.vllm_child import Done
from eval.messages import BackendError
from openrlhf_mel import child_process
from openrlhf_mel.run.last_words import last_words

PATIENCE_S = 20.0  # for an engine to end by itself
_BOOT = "import sys; from eval.backends.vllm_child import run; run(int(sys.argv[1]), sys.argv[2])"
_LINES, _EXCEPTIONS = 4, 2  # of a dead process that are shown below the cause
_CHUNK = 4096  # bytes of its output that are read at once


class Place(NamedTuple):
    """The place of an engine: its name in messages, and the environment variables that select it."""

    name: str
    environment: dict[str, str]


def end(processes: Sequence[Process]) -> None:
    """End processes and their children; kill those that do not end in time."""
    for process in processes:
        process.send(None)
    deadline = time.monotonic() + PATIENCE_S  # for all together
    for process in processes:
        process.end(deadline)


class Process:
    """A process with an engine, and the connection to it.

    Attributes:
        jobs: number of its unfinished jobs.
    """

    def __init__(self, place: Place, engine: str, options: dict[str, Any]) -> None:
        """`engine`: `module:name` of its class; `options`: its arguments."""
        self.jobs = 0
        self._place = place
        self._ready = self._hung_up = self._overdue = False
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (`end` closes it)
        environment = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1", **place.environment}
        ours, self._process = child_process.start(_BOOT, engine, environment=environment, output=self._output)
        self.connection = Connection(ours.detach())
        self.send(options)

    def send(self, message: Any) -> None:
        """Send a message. A dead process is not reported here, but by `alive`."""
        with suppress(OSError):
            self.connection.send(message)

    def ready(self) -> bool:
        """Whether the engine takes jobs. Raises BackendError when the process is dead."""
        if not self._ready and self._heard():
            self._ready = True
        if not self.alive():
            raise self.error()
        return self._ready

    def receive(self) -> list[Done]:
        """All received messages."""
        received: list[Done] = []
        while done := self._heard():
            received += done
        return received

    def alive(self) -> bool:
        """Whether the process runs and is connected. If not, it and its children are ended."""
        if self._process.poll() is None and not self._hung_up:
            return True
        self._finish(time.monotonic() + PATIENCE_S)
        return False

    def abort(self) -> None:
        """Drop all jobs."""
        self.jobs = 0
        self.send("abort")

    def end(self, deadline: float) -> None:
        """End the process and its children; kill them at `deadline` (of the monotonic clock)."""
        self._finish(deadline if self._ready else 0)
        self.connection.close()
        self._output.close()

    def error(self) -> BackendError:
        """Why the process is dead: first the first exception that it reported, which caused the others."""
        self._output.seek(0)
        chunks = iter(lambda: self._output.readline(_CHUNK), b"")
        said = last_words((chunk.decode("utf-8", "replace") for chunk in chunks), _LINES)
        why = said.cause or "no exception in its output"
        then = [f"  then {exception}" for exception in said.exceptions if exception != said.cause][:_EXCEPTIONS]
        lines = [f"  {line}" for line in said.lines] or ["  none"]
        return BackendError(
            f"the vLLM process on {self._place.name} {self._ended()}: {why}",
            "\n".join([*then, "its last words:", *lines]),
        )

    def _ended(self) -> str:
        code = self._process.returncode
        if self._overdue:
            return f"broke off and did not end within {PATIENCE_S:g} s"
        if code == -signal.SIGKILL:
            return (
                f"was killed (exit code {code}, SIGKILL), as a machine does whose memory is full; fewer engines "
                "(--data-parallel), a smaller --max-tokens or a --dtype of 16 bits take less"
            )
        return f"ended (exit code {code})"

    def _heard(self) -> Any:
        """The next message, or None."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            self._hung_up = True
            return None

    def _finish(self, deadline: float) -> None:
        """Wait for the process until `deadline`, then kill it; its children in any case."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self._overdue = self._overdue or self._process.returncode is None
        with suppress(ProcessLookupError):  # the group is empty
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
