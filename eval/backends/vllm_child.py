"""The process of one vLLM engine: takes requests, and gives back each response as soon as it is finished."""

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
    """What a worker asks of an engine."""

    def add(self, job: Job) -> None:
        """Take a job."""

    def step(self) -> list[Done]:
        """Go on with the jobs taken, a little; returns those that are finished."""

    def abort(self, keys: Sequence[int]) -> None:
        """Forget jobs."""

    def close(self) -> None:
        """End what belongs to the engine."""


class VLLMEngine:
    """vLLM's own engine: all that is taken from vLLM."""

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
            more: arguments of vLLM's for this machine.
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
                # A prompt's cached part is computed in other shapes than a new one: that can turn a greedy response.
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
    """Serve the owner at the other end of the socket `fd` until it says None or is gone.

    Args:
        factory: `module:name` of what makes the engine from the options that the owner sends first.

    The owner sends a Job at a time, "abort" to have all of them forgotten, and None to end. It receives "ready" once the
    engine is, then lists of Done. What goes wrong ends the process, with a traceback; the socket is closed before, since
    an engine that is broken may not come to an end.
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
    # A thread of its own: an owner that is slow to read must not hold up the engine.
    sender = threading.Thread(target=_send, args=(owner, finished), daemon=True)
    sender.start()
    try:
        _work(owner, engine, finished)
    except Exception:
        finished.put(None)
        sender.join(10)  # what was finished before is not lost
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
    """What the owner says; None where it is gone."""
    try:
        return owner.recv()
    except EOFError:
        return None


def _send(owner: Connection, finished: queue.SimpleQueue[list[Done] | None]) -> None:
    with suppress(OSError):  # the owner is gone: the other thread sees it
        while (done := finished.get()) is not None:
            owner.send(done)
