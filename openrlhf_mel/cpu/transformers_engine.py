"""The rollout engine without vLLM: upstream's `RolloutRayActor` with transformers instead of vLLM.

Everything above token-level generation (`generate_responses`, the agent executor) is upstream's own code. Waiting
requests with the same sampling settings are generated as a batch.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from openrlhf.trainer.ray import vllm_engine
from openrlhf.utils.agent import SingleTurnAgentExecutor

from openrlhf_mel.upstream.engine import RolloutEngine

BATCH = 256  # rows generated together at most
COLLECT_S = 0.005  # how long the first request of a batch waits for others


class _Request(NamedTuple):
    prompt_ids: list[int]
    sampling: Any
    answer: asyncio.Future

    @property
    def key(self) -> tuple:
        s = self.sampling
        return s.temperature, s.top_p, s.top_k, s.min_tokens, s.logprobs is not None


class TransformersEngine(RolloutEngine):
    """`RolloutRayActor`'s methods over `transformers` generation on a CPU."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, model: str, dtype: str, seed: int, agent_func_path: str | None, remote_rm_url: Any = None
    ) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        if agent_func_path:
            self.executor = vllm_engine._load_agent_executor(agent_func_path)
        else:
            self.executor = SingleTurnAgentExecutor(remote_rm_url)
        self._mm_pad_token_ids = None
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self._unfinished = 0
        self._weights: asyncio.Queue[torch.Tensor] = asyncio.Queue()
        self._busy = asyncio.Lock()  # weights never change under a running generation
        self._running = asyncio.Event()
        self._running.set()
        self._loop_task = asyncio.create_task(self._serve())

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None) -> Any:
        """One continuation in the form of vLLM's `RequestOutput`: `.outputs[0]` with ids, reason and logprobs."""
        request = _Request(list(prompt_token_ids), sampling_params, asyncio.get_running_loop().create_future())
        self._unfinished += 1
        try:
            await self._queue.put(request)
            return await request.answer
        finally:
            self._unfinished -= 1

    def get_num_unfinished_requests(self) -> int:
        """Requests that wait or run."""
        return self._unfinished

    async def receive(self, tensor: torch.Tensor) -> None:
        """Receive a parameter's new value; a call of `update_weight` names the parameter."""
        await self._weights.put(tensor)

    async def update_weight(self, name: str, dtype: torch.dtype, shape: Any, empty_cache: bool = False) -> None:
        """Set one parameter, between generations."""
        tensor = await self._weights.get()
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name}: received {tuple(tensor.shape)}, expected {tuple(shape)}")
        async with self._busy:
            self.model.get_parameter(name).data.copy_(tensor)

    async def sleep(self, level: int = 1) -> None:
        """Nothing to free on a CPU; requests wait until the engine is awake."""
        self._running.clear()

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Continue generation when the cache is awake; waking the weights alone changes nothing."""
        if tags is None or "kv_cache" in tags:
            self._running.set()

    async def pause_generation(self) -> None:
        """Start no further batch; the running one completes."""
        self._running.clear()

    async def resume_generation(self) -> None:
        """Start batches again."""
        self._running.set()

    async def reset_prefix_cache(self) -> None:
        """Do nothing: there is no prefix cache."""

    def _errored(self) -> bool:
        return False  # it has no process besides the actor's own

    async def _serve(self) -> None:
        waiting: list[_Request] = []
        while True:
            if not waiting:
                waiting.append(await self._queue.get())
                await asyncio.sleep(COLLECT_S)
            await self._running.wait()
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            batch = [r for r in waiting if r.key == waiting[0].key][:BATCH]
            waiting = [r for r in waiting if not any(r is b for b in batch)]
            try:
                async with self._busy:
                    outputs = await asyncio.to_thread(self._generate_batch, batch)
                for request, output in zip(batch, outputs, strict=True):
                    request.answer.set_result(output)
            except Exception as error:  # every waiting caller must get the error
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)

    @torch.inference_mode()
    def _generate_batch(self, batch: list[_Request]) -> list[Any]:
        config = self.model.generation_config
        eos = config.eos_token_id
        ends = set(eos if isinstance(eos, list) else [eos])
        pad = config.pad_token_id if config.pad_token_id is not None else min(ends)
        width = max(len(r.prompt_ids) for r in batch)
        ids = torch.full((len(batch), width), pad)
        mask = torch.zeros_like(ids)
        for i, r in enumerate(batch):
            ids[i, width - len(r.prompt_ids) :] = torch.tensor(r.prompt_ids)
            mask[i, width - len(r.prompt_ids) :] = 1
        first = batch[0].sampling
        greedy = first.temperature == 0
        sampling = (
            {} if greedy else {"temperature": first.temperature, "top_p": first.top_p, "top_k": max(first.top_k, 0)}
        )
        result = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=not greedy,
            min_new_tokens=first.min_tokens,
            max_new_tokens=max(r.sampling.max_tokens for r in batch),
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_scores=first.logprobs is not None,
            **sampling,
        )
        outputs = []
        for i, r in enumerate(batch):
            tokens = result.sequences[i, width:].tolist()
            end = next((k + 1 for k, t in enumerate(tokens) if t in ends), None)
            reason = "stop" if end is not None and end <= r.sampling.max_tokens else "length"
            tokens = tokens[: end if reason == "stop" else r.sampling.max_tokens]
            logprobs = None
            if first.logprobs is not None:
                rows = (s[i].float().log_softmax(-1) for s in result.scores)
                logprobs = [{t: SimpleNamespace(logprob=p[t].item())} for t, p in zip(tokens, rows, strict=False)]
            one = SimpleNamespace(token_ids=tokens, text=None, finish_reason=reason, logprobs=logprobs)
            outputs.append(SimpleNamespace(outputs=[one]))
        return outputs
