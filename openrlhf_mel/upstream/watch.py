"""Ends the run when a rollout engine dies. In several places upstream and vLLM would wait for ever."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from openrlhf_mel.run.failure import EngineDied

_SIGNAL = signal.SIGUSR1
_TOLD_S = 10.0  # how long after its consequences the death of an engine may be reported
_LOG_S = 2.0  # how long after its report the output of the engine's processes may arrive


class EngineWatch:
    """Raises KeyboardInterrupt in the main thread when an engine dies within `with`.

    The main thread waits in Ray for a result that may never come. Ray checks for signals meanwhile; of the
    exceptions that a signal's handler raises it lets only KeyboardInterrupt and SystemExit through.

    Attributes:
        died: the first death, once there is one.
    """

    def __init__(self) -> None:
        self.died: EngineDied | None = None
        self._interrupts = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._interrupts = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._interrupts = False
        if self._thread and kind and issubclass(kind, Exception):
            self._thread.join(_TOLD_S)  # a policy that lost its engine in a collective may report it first
        if self.died:
            time.sleep(_LOG_S)

    def around(self, create: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        """Upstream's `create_vllm_engines`, whose engines are watched from their creation on."""

        def create_and_watch(*args: Any, **kwargs: Any) -> list[Any]:
            engines = create(*args, **kwargs)
            calls = {engine.until_dead.remote(): number for number, engine in enumerate(engines, 1)}
            signal.signal(_SIGNAL, self._interrupt)
            self._thread = threading.Thread(target=self._wait, args=(calls,), name="mel-engine-watch", daemon=True)
            self._thread.start()
            return engines

        return create_and_watch

    def _wait(self, calls: dict[Any, int]) -> None:
        try:
            (ended, *_), _ = ray.wait(list(calls), num_returns=1)
        except Exception:  # Ray has been shut down: the run is over
            return
        try:
            ray.get(ended)
        except Exception as error:
            if ray.is_initialized():  # else the run is over, and its engines too
                self.died = EngineDied(calls[ended], len(calls), error)
                _thread.interrupt_main(_SIGNAL)

    def _interrupt(self, *_: Any) -> None:
        if self._interrupts:
            raise KeyboardInterrupt
