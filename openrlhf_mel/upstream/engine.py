"""The rollout engine on vLLM: upstream's actor, which also reports its death, counts its tokens, says when it is idle, and
lets constructions go ahead of waiting responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import ray
from openrlhf.trainer.ray import vllm_engine

from openrlhf_mel.method.token_timeline import TokenTimeline

_UpstreamEngine: Any = vllm_engine.RolloutRayActor.__ray_metadata__.modified_class
_POLL_S = 1.0
_IDLE_POLL_S = 0.005  # an aborted request ends with the engine's current step
AHEAD = {"mel_ahead": True}  # `SamplingParams.extra_args` of a request that is scheduled before the others
# Tokens of the requests that a call of `generate_responses` has completed; its responses' tasks inherit the list.
_completed: ContextVar[list[int]] = ContextVar("completed")


class RolloutEngine(_UpstreamEngine):
    """Upstream's `RolloutRayActor`."""

    _failed: Exception | None = None

    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]  # Ray awaits it
        # vLLM's default is the order of arrival: Ms would wait behind all responses that have no slot yet.
        await super().__init__(*args, **(kwargs | {"scheduling_policy": "priority"}))
        self._prepare_accounts()
        self.llm.generate = self._counting(self.llm.generate)

    def _prepare_accounts(self) -> None:
        self.begin_counting()
        self._open = 0  # coroutines that generate responses, execute one, or read a request's tokens
        self.executor.execute = self._tracking(self.executor.execute)

    def begin_counting(self) -> None:
        """Count tokens from now on."""
        self._timeline, self._aborted = TokenTimeline(), 0

    def timeline(self) -> TokenTimeline:
        """Tokens generated since `begin_counting`."""
        return self._timeline

    async def until_idle(self) -> int:
        """Wait until no response is executed, and no request waits or runs. An agent may go on after its cancellation.

        Returns:
            Tokens of requests that were aborted since `begin_counting`.
        """
        while self._open or self.get_num_unfinished_requests():
            await asyncio.sleep(_IDLE_POLL_S)
        return self._aborted

    async def generate_responses(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        num_samples: int = 1,
        images: Any = None,
    ) -> Any:
        """Upstream's. Where it is cancelled, what its responses have completed is lost as well: nobody gets it."""
        completed: list[int] = []
        token = _completed.set(completed)
        self._open += 1  # `until_idle` has to see what is added below
        try:
            return await super().generate_responses(
                prompt, label, sampling_params, max_length, hf_tokenizer, num_samples, images
            )
        except asyncio.CancelledError:  # earlier turns, and responses that were judged or being judged
            self._aborted += sum(completed)
            raise
        finally:
            self._open -= 1
            _completed.reset(token)

    def _note_completed(self, tokens: int) -> None:
        _completed.get([]).append(tokens)

    def _tracking(self, execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def tracked(*args: Any, **kwargs: Any) -> Any:
            self._open += 1
            try:
                return await execute(*args, **kwargs)
            finally:
                self._open -= 1

        return tracked

    def _counting(self, generate: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        """vLLM's `generate`, with each request's new tokens counted as they arrive, and `AHEAD` read as its priority."""

        async def counted(prompt: Any, sampling_params: Any, request_id: str, **more: Any) -> AsyncIterator[Any]:
            generated = 0
            if (sampling_params.extra_args or {}).items() >= AHEAD.items():
                more["priority"] = -1
            self._open += 1
            try:
                async for output in generate(prompt, sampling_params, request_id=request_id, **more):
                    so_far = len(output.outputs[0].token_ids)
                    self._timeline.add(so_far - generated)
                    generated = so_far
                    yield output
                self._note_completed(generated)
            except (asyncio.CancelledError, GeneratorExit):
                self._aborted += generated
                # vLLM aborts the request itself, but not where it was interrupted while it added the request.
                await self.llm.abort(request_id)
                raise
            finally:
                self._open -= 1

        return counted

    async def init_process_group(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's."""
        return await self._together(super().init_process_group(*args, **kwargs))

    async def update_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's."""
        return await self._together(super().update_weight(*args, **kwargs))

    async def update_weight_cuda_ipc(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's."""
        return await self._together(super().update_weight_cuda_ipc(*args, **kwargs))

    async def _together(self, call: Any) -> Any:
        """Run a call with a collective in which the policy takes part, and would wait for an engine that has failed."""
        try:
            return await call
        except Exception as error:
            self._failed = error
            raise

    async def until_dead(self) -> None:
        """Wait until the engine dies, then raise its cause. The death of the actor ends the call as well.

        vLLM never answers a call that was running when its core died.
        """
        while not (self._failed or self._errored()):
            await asyncio.sleep(_POLL_S)
        raise self._failed or self.llm.dead_error

    def _errored(self) -> bool:
        return self.llm.errored


RemoteRolloutEngine = ray.remote(RolloutEngine)
