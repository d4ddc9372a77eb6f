"""Upstream's rollout actors, as construction and the generator's figures need them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from vllm import SamplingParams

from openrlhf_mel.method.construction import EngineSampling, Generation, Replay
from openrlhf_mel.method.token_timeline import TokenTimeline
from openrlhf_mel.upstream.agent_executor import unjudged
from openrlhf_mel.upstream.engine import AHEAD


class RayEngine:
    """`construction.Engine` over upstream's rollout actors; each request goes to the actor with the fewest of them.

    It goes ahead of responses that wait for a slot: M and its replay are one chain, longer than a response.

    Cancelling a coroutine cancels the actor's call, on which the engine aborts its requests: cancelling the driver's
    future alone would change nothing in the actor.
    """

    def __init__(self, engines: list[Any], tokenizer: Any, max_len: int) -> None:
        self._engines, self._tokenizer, self._max_len = engines, tokenizer, max_len
        self._load = [0] * len(engines)
        self._cancelled: list[Any] = []  # calls that may not have ended
        self._writing_s: list[float] = []

    def encode(self, text: str) -> list[int]:
        """As upstream's executor encodes a prompt."""
        return self._tokenizer(text=text, add_special_tokens=False)["input_ids"]

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Special tokens left out."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    async def generate(self, prompt_ids: list[int], sampling: EngineSampling) -> Generation:
        """The engine's plain generation, not scored. Truncated unless M ended by itself: vLLM may abort or fail."""
        begun = time.monotonic()
        output = await self._call("generate", 1, prompt_ids, _params(sampling))
        self._writing_s.append(time.monotonic() - begun)
        one = output.outputs[0]
        return Generation(tuple(one.token_ids), one.finish_reason != "stop")

    async def respond(self, prompt: str, answer: str, sampling: EngineSampling, count: int) -> list[Replay]:
        """Responses judged in the same way as rollouts."""
        responses = await self._call(
            "generate_responses",
            count,
            prompt=prompt,
            label=answer,
            sampling_params=_params(sampling),
            max_length=self._max_len,
            hf_tokenizer=self._tokenizer,
            num_samples=count,
        )
        return [self._replay(response) for response in responses]

    def take_writing_s(self) -> list[float]:
        """Seconds of each call of `generate` that has returned since this was last asked."""
        taken, self._writing_s = self._writing_s, []
        return taken

    async def settle(self) -> int:
        """Wait until the cancelled calls have ended and no engine has a request. Returns the tokens they had generated."""
        calls, self._cancelled = self._cancelled, []
        ended = await asyncio.gather(*(asyncio.wrap_future(call.future()) for call in calls), return_exceptions=True)
        aborted = await asyncio.gather(
            *(asyncio.wrap_future(engine.until_idle.remote().future()) for engine in self._engines)
        )
        return sum(aborted) + sum(map(_generated, ended))

    def begin_counting(self) -> None:
        """Count the tokens that the engines generate from now on."""
        ray.get([engine.begin_counting.remote() for engine in self._engines])

    def timelines(self) -> list[TokenTimeline]:
        """Each engine's tokens since `begin_counting`."""
        return ray.get([engine.timeline.remote() for engine in self._engines])

    def _replay(self, response: dict[str, Any]) -> Replay:
        tokens = own_tokens(response)
        return Replay(
            self.decode(tuple(tokens)), len(tokens), None if unjudged(response) else float(response["scores"])
        )

    async def _call(self, method: str, weight: int, *args: Any, **kwargs: Any) -> Any:
        index = self._load.index(min(self._load))
        self._load[index] += weight
        call = getattr(self._engines[index], method).remote(*args, **kwargs)
        try:
            return await asyncio.wrap_future(call.future())
        except asyncio.CancelledError:
            self._cancelled.append(call)
            ray.cancel(call)
            raise
        finally:
            self._load[index] -= weight


def own_tokens(response: dict[str, Any]) -> list[int]:
    """All tokens after the prompt; for an agent with several turns this includes its environment's."""
    ranges = response["action_ranges"]
    return list(response["observation_tokens"][ranges[0][0] : ranges[-1][1]])


def _generated(ended: Any) -> int:
    """Tokens of a call that ended before its cancellation reached it; the engine counts those of an aborted one."""
    if isinstance(ended, BaseException):
        return 0
    if isinstance(ended, list):
        return sum(len(own_tokens(response)) for response in ended)
    return len(ended.outputs[0].token_ids)


def _params(sampling: EngineSampling) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=-1,
        max_tokens=sampling.max_new_tokens,
        min_tokens=1,
        skip_special_tokens=False,
        extra_args=AHEAD,
    )
