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

from openrlhf_mel.method.token_timeline import TokenTimeline
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


class _Rows:
    """Counts the tokens of a batch's rows as they are generated, and ends the rows of aborted requests.

    Attributes:
        generated: tokens of each row, (B,).
    """

    def __init__(self, batch: list[_Request], ends: set[int], timeline: TokenTimeline) -> None:
        self.generated = torch.zeros(len(batch), dtype=torch.long)
        self._batch, self._ends, self._timeline = batch, torch.tensor(sorted(ends)), timeline
        self._most = torch.tensor([r.sampling.max_tokens for r in batch])
        self._running = torch.ones(len(batch), dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows end, (B,), after each new token of `input_ids` (B, T)."""
        self.generated += self._running
        self._timeline.add(int(self._running.sum()))
        aborted = torch.tensor([r.answer.cancelled() for r in self._batch])
        self._running &= ~(torch.isin(input_ids[:, -1], self._ends) | aborted | (self.generated >= self._most))
        return ~self._running

    def aborted(self) -> int:
        """Tokens of aborted requests."""
        return sum(int(count) for r, count in zip(self._batch, self.generated, strict=True) if r.answer.cancelled())


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
        self._prepare_accounts()

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any, multi_modal_data: Any = None) -> Any:
        """One continuation in the form of vLLM's `RequestOutput`: `.outputs[0]` with ids, reason and logprobs."""
        request = _Request(list(prompt_token_ids), sampling_params, asyncio.get_running_loop().create_future())
        self._unfinished += 1
        await self._queue.put(request)
        answer = await request.answer
        self._note_completed(len(answer.outputs[0].token_ids))
        return answer

    def get_num_unfinished_requests(self) -> int:
        """Requests that wait or run. An aborted one runs until the batch's next token."""
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
            wanted = [r for r in waiting if not r.answer.cancelled()]
            self._unfinished -= len(waiting) - len(wanted)
            batch = [r for r in wanted if r.key == wanted[0].key][:BATCH]
            waiting = [r for r in wanted if not any(r is b for b in batch)]
            if batch:
                await self._answer(batch)
                self._unfinished -= len(batch)

    async def _answer(self, batch: list[_Request]) -> None:
        try:
            async with self._busy:
                outputs: list[Any] = await asyncio.to_thread(self._generate_batch, batch)
        except Exception as error:  # every waiting caller must get the error
            outputs = [error] * len(batch)
        for request, output in zip(batch, outputs, strict=True):
            if request.answer.cancelled():
                continue
            if isinstance(output, Exception):
                request.answer.set_exception(output)
            else:
                request.answer.set_result(output)

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
        counter = _Rows(batch, ends, self._timeline)
        result = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=not greedy,
            min_new_tokens=first.min_tokens,
            max_new_tokens=max(r.sampling.max_tokens for r in batch),
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_scores=first.logprobs is not None,
            stopping_criteria=[counter],
            **sampling,
        )
        self._aborted += counter.aborted()
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
