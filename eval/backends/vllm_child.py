"""The process of one vLLM engine: takes requests, and returns each response when it is finished."""

from __future__ import annotations

import importlib
import os
import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

ROWS = 256  # responses generated together at most


class Job(NamedTuple):
    """A response to draw. `temperature` 0 is greedy."""

    key: int
    prompt: list[int]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None


class Done(NamedTuple):
    """A response drawn; `tokens` counts the end token."""

    key: int
    text: str
    cut: bool
    tokens: int


class JobEngine(Protocol):
    """The engine's interface for a worker."""

    def add(self, job: Job) -> None:
        """Take a job."""

    def step(self) -> list[Done]:
        """Run one step of the accepted jobs; returns those that are finished."""

    def abort(self, keys: Sequence[int]) -> None:
        """Forget jobs."""

    def close(self) -> None:
        """End the engine's processes."""


class VLLMEngine:
    """vLLM's own engine. Nothing else of vLLM is used."""

    def __init__(
        self,
        *,
        model: str,
        tensor_parallel: int,
        dtype: str,
        gpu_memory: float,
        trust_remote_code: bool,
        context: int,
        more: dict[str, Any],
    ) -> None:
        """
        Args:
            context: the most tokens of prompt and response together.
            more: vLLM's arguments for this machine.
        """
        from vllm import EngineArgs, LLMEngine, SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._params, self._final_only = SamplingParams, RequestOutputKind.FINAL_ONLY
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model,
                tensor_parallel_size=tensor_parallel,
                dtype=dtype,
                gpu_memory_utilization=gpu_memory,
                trust_remote_code=trust_remote_code,
                max_model_len=context,
                max_num_seqs=ROWS,
                # A cached part of a prompt was computed in other shapes than a new one: that can change a greedy
                # response.
                enable_prefix_caching=False,
                disable_log_stats=True,
                seed=0,
                **more,
            )
        )

    def add(self, job: Job) -> None:
        params = self._params(
            n=1,
            temperature=job.temperature,
            top_p=job.top_p,
            seed=job.seed,
            max_tokens=job.max_tokens,
            output_kind=self._final_only,
        )
        self._engine.add_request(str(job.key), {"prompt_token_ids": job.prompt}, params)

    def step(self) -> list[Done]:
        done = []
        for output in self._engine.step():
            if output.finished:
                response = output.outputs[0]
                if response.finish_reason not in ("stop", "length"):
                    raise RuntimeError(f"vLLM broke off a response: finish reason {response.finish_reason!r}")
                cut = response.finish_reason == "length"
                done.append(Done(int(output.request_id), response.text, cut, len(response.token_ids)))
        return done

    def abort(self, keys: Sequence[int]) -> None:
        self._engine.abort_request([str(key) for key in keys])

    def close(self) -> None:
        self._engine.engine_core.shutdown()


def run(fd: int, factory: str) -> None:
    """Serve the owner at the other end of the socket `fd` until it sends None or ends.

    Args:
        factory: `module:name` of the class or function that creates the engine from the options that the owner sends
        first.

    The owner sends one Job at a time, "abort" to drop all of them, and None to end. It receives "ready" when the engine
    is, then lists of Done. An error ends the process with a traceback. The socket is closed before, because a broken
    engine may never end.
    """
    os.set_inheritable(fd, False)
    engine: JobEngine | None = None
    with Connection(fd) as owner:
        try:
            options: dict[str, Any] = owner.recv()
            module, name = factory.split(":")
            engine = getattr(importlib.import_module(module), name)(**options)
            owner.send("ready")
            _serve(owner, engine)
        except Exception:
            traceback.print_exc()
            owner.close()
            sys.exit(1)
        finally:
            if engine:
                engine.close()


def _serve(owner: Connection, engine: JobEngine) -> None:
    finished: queue.SimpleQueue[list[Done] | None] = queue.SimpleQueue()
    # A thread of its own: an owner that reads slowly must not block the engine.
    sender = threading.Thread(target=_send, args=(owner, finished), daemon=True)
    sender.start()
    try:
        _work(owner, engine, finished)
    except Exception:
        finished.put(None)
        sender.join(10)  # earlier responses are not lost
        raise


def _work(owner: Connection, engine: JobEngine, finished: queue.SimpleQueue[list[Done] | None]) -> None:
    running: set[int] = set()
    while True:
        while not running or owner.poll():
            message = _next(owner)
            if message is None:
                return
            if message == "abort":
                engine.abort(sorted(running))
                running.clear()
            else:
                engine.add(message)
                running.add(message.key)
        if done := engine.step():
            running.difference_update(one.key for one in done)
            finished.put(done)


def _next(owner: Connection) -> Any:
    """The owner's next message; None when it has ended."""
    try:
        return owner.recv()
    except EOFError:
        return None


def _send(owner: Connection, finished: queue.SimpleQueue[list[Done] | None]) -> None:
    with suppress(OSError):  # the owner has ended: the other thread detects it
        while (done := finished.get()) is not None:
            owner.send(done)
