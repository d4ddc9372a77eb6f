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


class _Watch:
    """Waits beside the main thread for the death of an engine, and raises EngineDied there.

    The main thread waits in Ray for a result that may never come; Ray looks for signals meanwhile.
    """

    def __init__(self, engines: list[Any]) -> None:
        self._died: EngineDied | None = None
        self._calls = {engine.until_dead.remote(): number for number, engine in enumerate(engines, 1)}
        signal.signal(_SIGNAL, self._raise)
        threading.Thread(target=self._wait, name="mel-engine-watch", daemon=True).start()

    def _wait(self) -> None:
        try:
            (ended, *_), _ = ray.wait(list(self._calls), num_returns=1)
        except Exception:  # Ray has been shut down: the run is over
            return
        try:
            ray.get(ended)
        except Exception as error:
            if ray.is_initialized():  # else the run is over, and its engines with it
                self._died = EngineDied(self._calls[ended], len(self._calls), error)
                _thread.interrupt_main(_SIGNAL)

    def _raise(self, *_: Any) -> None:
        if self._died:
            raise self._died


def watched(create: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Upstream's `create_vllm_engines`, whose engines are watched from their creation on."""

    def create_and_watch(*args: Any, **kwargs: Any) -> list[Any]:
        engines = create(*args, **kwargs)
        _Watch(engines)
        return engines

    return create_and_watch
