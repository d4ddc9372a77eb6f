"""Ends the run when a rollout engine dies. Upstream, and vLLM itself, would wait for ever at several places."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable
from typing import Any

import ray

from openrlhf_mel.failure import EngineDied

_SIGNAL = signal.SIGUSR1


class EngineWatch:
    """Waits beside the main thread for the death of an engine, and interrupts the main thread with it.

    That one waits in Ray for a result that may never come; Ray looks for signals meanwhile.

    Attributes:
        died: the first death, once there is one. What the interrupted code makes of its exception may be another one.
    """

    def __init__(self) -> None:
        self.died: EngineDied | None = None

    def around(self, create: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        """Upstream's `create_vllm_engines`, whose engines are watched from their creation on."""

        def create_and_watch(*args: Any, **kwargs: Any) -> list[Any]:
            engines = create(*args, **kwargs)
            calls = {engine.until_dead.remote(): number for number, engine in enumerate(engines, 1)}
            signal.signal(_SIGNAL, self._interrupt)
            threading.Thread(target=self._wait, args=(calls,), name="mel-engine-watch", daemon=True).start()
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
            if ray.is_initialized():  # else the run is over, and its engines with it
                self.died = EngineDied(calls[ended], len(calls), error)
                _thread.interrupt_main(_SIGNAL)

    def _interrupt(self, *_: Any) -> None:
        if self.died:
            raise self.died
