"""Upstream's samples generator, which also starts a group's meta-experience when the group is finished.

Upstream collects groups one by one and turns each response into an experience as it arrives. When the last response of
a group has arrived, the construction of its Ms starts on an event loop of its own, while upstream waits for other
groups. The rollout returns when both are complete, so the engines are awake during construction.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from vllm import SamplingParams

from openrlhf_mel.errors import Stopped
from openrlhf_mel.method.construction import Constructor, EngineSampling, Generation, Replay
from openrlhf_mel.method.experience import Group, Trajectory
from openrlhf_mel.method.group_record import GroupRecord, RolloutInfo
from openrlhf_mel.run import records
from openrlhf_mel.upstream import group_sample, rollout_log_probs
from openrlhf_mel.upstream.agent_executor import unjudged
from openrlhf_mel.upstream.dataset import prompt_format
from openrlhf_mel.upstream.group_sample import GroupSample


class RayEngine:
    """`construction.Engine` over upstream's rollout actors; each request goes to the actor with the fewest requests."""

    def __init__(self, engines: list[Any], tokenizer: Any, max_len: int) -> None:
        self._engines, self._tokenizer, self._max_len = engines, tokenizer, max_len
        self._load = [0] * len(engines)

    def encode(self, text: str) -> list[int]:
        """As upstream's executor encodes a prompt."""
        return self._tokenizer(text=text, add_special_tokens=False)["input_ids"]

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Special tokens left out."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    async def generate(self, prompt_ids: list[int], sampling: EngineSampling) -> Generation:
        """The engine's plain generation, not scored. Truncated unless M ended by itself: vLLM may abort or fail."""
        output = await self._call("generate", 1, prompt_ids, _params(sampling))
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

    def _replay(self, response: dict[str, Any]) -> Replay:
        tokens = _own_tokens(response)
        return Replay(
            self.decode(tuple(tokens)), len(tokens), None if unjudged(response) else float(response["scores"])
        )

    async def _call(self, method: str, weight: int, *args: Any, **kwargs: Any) -> Any:
        index = self._load.index(min(self._load))
        self._load[index] += weight
        try:
            reference = getattr(self._engines[index], method).remote(*args, **kwargs)
            return await asyncio.wrap_future(reference.future())
        finally:
            self._load[index] -= weight


def _params(sampling: EngineSampling) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=-1,
        max_tokens=sampling.max_new_tokens,
        min_tokens=1,
        skip_special_tokens=False,
    )


@dataclass(frozen=True)
class _Finished:
    """A finished group on its first sample; `future` are its candidates, None where nothing is constructed."""

    first: GroupSample
    group: Group
    future: Future | None


class MetaExperienceGenerator(SamplesGenerator):
    """Upstream's generator. Each group's first sample has its `GroupRecord`, through every queue and buffer.

    Attributes:
        rollouts: made so far; set on a resume.
        stop_file: looked for whenever a response arrives; `Stopped` is raised when it exists. None: not looked for.
    """

    args: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mel = self.args.mel
        self.rollouts = 0
        self.stop_file = Path(self.mel.run_dir) / records.STOP if self.mel.run_dir else None
        self._began: float | None = None  # start of the rollout's first construction
        # Set during a whole evaluation, which never constructs Ms.
        self._evaluating = False
        self._responses: list[tuple[dict, GroupSample]] = []
        self._finished: list[_Finished] = []
        dataset = self.prompts_dataloader.dataset
        self._questions = dict(zip(dataset.prompts, dataset.questions, strict=True))
        self._references = {
            (prompt, str(label)): label for prompt, label in zip(dataset.prompts, dataset.labels, strict=True)
        }
        if self.mel.enable:
            self._constructor = Constructor(
                self.mel,
                prompt_format(self.args, self.tokenizer),
                RayEngine(self.vllm_engines, self.tokenizer, self.args.data.max_len),
                self.args.data.max_len,
            )
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="mel-construction", daemon=True).start()

    def generate_eval_samples(self, **kwargs: Any) -> list[Any]:
        """As upstream's; no M is constructed."""
        self._evaluating = True
        try:
            return super().generate_eval_samples(**kwargs)
        finally:
            self._evaluating = False

    def _generate_vllm(self, *args: Any, **kwargs: Any) -> tuple[list[Any], int, bool]:
        if self._evaluating:
            return super()._generate_vllm(*args, **kwargs)
        self._finished, self._responses, self._began = [], [], None
        result = super()._generate_vllm(*args, **kwargs)
        ended = time.monotonic()
        candidates = [tuple(each.future.result()) if each.future else () for each in self._finished]
        info = self._rollout_info(ended, time.monotonic())
        samples = result[0]
        for each, own in zip(self._finished, candidates, strict=True):
            begins = bool(samples) and each.first is samples[0]
            group_sample.attach(each.first, GroupRecord(each.group, own, info if begins else None))
        if samples:  # a draw from exhausted data is no rollout
            self.rollouts += 1
        return result

    def _rollout_info(self, ended: float, constructed: float) -> RolloutInfo:
        """`ended`, `constructed`: when the last group was finished, and when the last construction was."""
        if self._began is None:
            return RolloutInfo(self._expected_steps(), 0.0, 0.0)
        return RolloutInfo(self._expected_steps(), constructed - self._began, constructed - ended)

    def _dispatch_prompts_to_vllm(self, *args: Any, **kwargs: Any) -> list[Any]:
        """As upstream's; for training it also requests the engine's log-probs where they are compared."""
        given = self.args
        if not self._evaluating and rollout_log_probs.measured(self.mel, given.rollout.top_p):
            self.args = rollout_log_probs.asking(given)
        try:
            return super()._dispatch_prompts_to_vllm(*args, **kwargs)
        finally:
            self.args = given

    def _expected_steps(self) -> int:
        per_episode = math.ceil(len(self.prompts_dataloader) / self.args.rollout.batch_size)
        return per_episode * self.args.train.num_episodes

    def _process_response_into_experience(self, response: dict[str, Any], **kwargs: Any) -> Any:
        if self.stop_file and self.stop_file.exists():
            raise Stopped
        sample = group_sample.group_sample(super()._process_response_into_experience(response, **kwargs))
        if not self._evaluating:
            self._responses.append((response, sample))
            size = kwargs.get("n_samples_per_prompt", self.args.rollout.n_samples_per_prompt)
            if len(self._responses) == size:
                self._finish_group(self._responses)
                self._responses = []
        return sample

    def _finish_group(self, members: list[tuple[dict, GroupSample]]) -> None:
        group, future = self._group([response for response, _ in members]), None
        if self.mel.enable and all(group.split(self.mel.correct_at)) and not self._filtered_out(group):
            self._began = self._began or time.monotonic()
            future = asyncio.run_coroutine_threadsafe(self._constructor.construct(group), self._loop)
        self._finished.append(_Finished(members[0][1], group, future))

    def _filtered_out(self, group: Group) -> bool:
        """Whether upstream's dynamic filtering will reject the group, so that it is not trained on."""
        scores = [t.score for t in group.trajectories]
        judged = [score for score in scores if score is not None]
        if not self.args.algo.dynamic_filtering_enable or len(judged) < len(scores):
            return False
        low, high = self.args.algo.dynamic_filtering_range
        return not low < sum(judged) / len(judged) < high

    def _group(self, responses: list[dict[str, Any]]) -> Group:
        """Upstream's `prompt` and `label` become the question and the answer.

        The answer is the dataset's own: an agent's `str(label)` names no scorer, and replays would be judged as `math`.
        """
        prompt, label = group_sample.common_prompt(responses), responses[0]["label"]
        question, answer = self._questions[prompt], self._references.get((prompt, str(label)), label)
        return Group(self.rollouts, question, answer, tuple(map(self._trajectory, responses)))

    def _trajectory(self, response: dict[str, Any]) -> Trajectory:
        tokens = _own_tokens(response)
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        score = None if unjudged(response) else float(response["scores"])
        return Trajectory(tuple(tokens), text, score, bool(response.get("truncated")))


def _own_tokens(response: dict[str, Any]) -> list[int]:
    """All tokens after the prompt; for an agent with several turns this includes its environment's."""
    ranges = response["action_ranges"]
    return list(response["observation_tokens"][ranges[0][0] : ranges[-1][1]])
