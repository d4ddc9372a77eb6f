"""The engine of `benchmarks/rollout.py`: real vLLM on the CPU, whose answers have the lengths and texts of a script."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from copy import copy
from typing import Any

from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import AutoTokenizer
from vllm import SamplingParams

from benchmarks.rollout_script import Script, asked, is_right
from openrlhf_mel.cpu.vllm_engine import VLLMOnCPUInFP32


def some_ids(count: int) -> list[int]:
    """So many token ids of the toy model."""
    return list(itertools.islice(itertools.cycle(range(10, 200)), count))


class ScriptedExecutor(SingleTurnAgentExecutor):
    """Upstream's executor of single turns, with the script's verdict."""

    async def execute(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Upstream's response, judged."""
        output = await super().execute(*args, **kwargs)
        (begin, end), tokenizer = output["action_ranges"][0], kwargs["hf_tokenizer"]
        score = float(is_right(tokenizer.decode(output["observation_tokens"][begin:end])))
        return output | {"reward": score, "scores": score}


class ScriptedEngine(VLLMOnCPUInFP32):
    """Generates as many tokens as the script says, then returns the script's text in their place, as complete."""

    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]  # Ray awaits it
        await super().__init__(*args, **kwargs)
        self.executor = ScriptedExecutor()
        self._prepare_accounts()
        self._tokenizer = AutoTokenizer.from_pretrained(kwargs["model"])

    def follow(self, script: Script) -> None:
        """Answer by `script` from now on, beginning with each question's first response."""
        self._script, self._responses = script, Counter[str]()

    async def generate(self, prompt_token_ids: Any, sampling_params: Any, multi_modal_data: Any = None) -> Any:
        """Upstream's, which rollouts, Ms and replays share."""
        kind, question = asked(self._tokenizer.decode(prompt_token_ids))
        index = self._responses[question] if kind == "response" else 0
        self._responses[question] += kind == "response"
        answer = self._script.answer(kind, question, index)
        told = copy(sampling_params)
        told.max_tokens, told.ignore_eos = answer.tokens, True
        output = await super().generate(prompt_token_ids, told, multi_modal_data)
        one = output.outputs[0]
        # "length" would put the response into neither Y+ nor Y-, and drop the M
        one.finish_reason = "stop"
        one.token_ids = self._tokenizer(answer.text, add_special_tokens=False)["input_ids"]
        return output

    async def step_s(self, batch: int, prompt: int, tokens: int) -> float:
        """Seconds of a decoding step with `batch` requests of so many prompt tokens and new tokens, prefill left out."""
        begun = [0.0] * batch

        async def one(number: int) -> None:
            async for _ in self._request(f"curve-{batch}-{number}", prompt, tokens):
                begun[number] = begun[number] or time.monotonic()

        await asyncio.gather(*map(one, range(batch)))
        return (time.monotonic() - max(begun)) / (tokens - 1)

    async def plain(self, prompt_token_ids: Any, sampling_params: Any) -> Any:
        """Upstream's `generate`, without the script."""
        return await super().generate(prompt_token_ids, sampling_params)

    def _request(self, name: str, prompt: int, tokens: int) -> Any:
        """A plain request of vLLM, counted and streamed as a rollout's."""
        return self.llm.generate(
            {"prompt_token_ids": some_ids(prompt)}, SamplingParams(max_tokens=tokens, ignore_eos=True), request_id=name
        )
