"""Upstream's samples generator, which also starts a group's meta-experience when the group is finished.

Upstream collects groups one by one and turns each response into an experience as it arrives. When the last response of
a group has arrived, the construction of its Ms starts on an event loop of its own, while upstream waits for other
groups. The rollout returns when the engines generate nothing any more: its constructions are complete, or (`mel.construction:
deferred`) broken off, and go on at the head of the next rollout.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.utils.logging_utils import init_logger

from openrlhf_mel.errors import Stopped
from openrlhf_mel.method import token_timeline
from openrlhf_mel.method.construction import Constructor
from openrlhf_mel.method.constructions import Constructions
from openrlhf_mel.method.experience import Group, MetaExperience, Trajectory
from openrlhf_mel.method.group_record import GroupRecord, RolloutInfo
from openrlhf_mel.method.rollout_pace import RolloutPace
from openrlhf_mel.run import records
from openrlhf_mel.settings.batches import Episodes
from openrlhf_mel.upstream import group_sample, rollout_log_probs
from openrlhf_mel.upstream.agent_executor import unjudged
from openrlhf_mel.upstream.dataset import prompt_format
from openrlhf_mel.upstream.group_sample import GroupSample
from openrlhf_mel.upstream.ray_engine import RayEngine, own_tokens
from openrlhf_mel.upstream.sent_once import send_once

logger = init_logger(__name__)
_STOP_POLL_S = 0.5
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class _Finished:
    """A finished group on its first sample, and its candidates: none where nothing is constructed."""

    first: GroupSample
    group: Group
    candidates: list[MetaExperience]


class MetaExperienceGenerator(SamplesGenerator):
    """Upstream's generator. Each group's first sample has its `GroupRecord`, through every queue and buffer.

    Attributes:
        rollouts: made so far; set on a resume.
        stop_file: looked for whenever a response arrives, and while constructions are waited for; `Stopped` is raised when
            it exists. None: not looked for.
        carried: Ms whose construction goes on in the next rollout; set on a resume.
    """

    args: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mel = self.args.mel
        self.rollouts = 0
        self.stop_file = Path(self.mel.run_dir) / records.STOP if self.mel.run_dir else None
        self._episodes = Episodes.of(len(self.prompts_dataloader), self.args)
        # Set during a whole evaluation, which never constructs Ms.
        self._evaluating = False
        self._pace = RolloutPace()
        self._begin()
        dataset = self.prompts_dataloader.dataset
        self._questions = dict(zip(dataset.prompts, dataset.questions, strict=True))
        self._references = {
            (prompt, str(label)): label for prompt, label in zip(dataset.prompts, dataset.labels, strict=True)
        }
        send_once(self.tokenizer)
        self._engine = RayEngine(self.vllm_engines, self.tokenizer, self.args.data.max_len)
        prompts = prompt_format(self.args, self.tokenizer)
        self._constructor = Constructor(self.mel, prompts, self._engine, self.args.data.max_len)
        self._constructions = Constructions(self._constructor, self.mel.max_carries)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="mel-construction", daemon=True).start()

    @property
    def carried(self) -> list[MetaExperience]:
        return self._constructions.carried

    @carried.setter
    def carried(self, candidates: Sequence[MetaExperience]) -> None:
        self._constructions.carried = list(candidates)

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
        self._begin()
        self._engine.begin_counting()
        self._begun = begun = time.monotonic()
        result = super()._generate_vllm(*args, **kwargs)
        if not self._dispatched:  # a draw from exhausted data is no rollout
            return result
        ended = time.monotonic()
        rewritten, carried_wait = self._end_constructions()
        constructed = time.monotonic()
        self._pace.end_rollout(self._engine.take_writing_s(), self._episodes.is_full(self.rollouts))
        samples = result[0]
        if not samples:
            return result
        self.rollouts += 1
        info = RolloutInfo(
            steps=self._episodes.rollouts,
            construction_s=constructed - self._first_start if self._first_start else 0.0,
            construction_tail_s=constructed - ended if self._first_start else 0.0,
            carried=tuple(self._finished_of(self._resumed)),
            carried_over=len(self.carried),
            carried_wait_s=carried_wait,
            rewritten_tokens=rewritten,
            idle=token_timeline.idle(self._engine.timelines(), constructed - begun),
        )
        for each in self._finished:
            own = tuple(self._finished_of(each.candidates))
            group_sample.attach(each.first, GroupRecord(each.group, own, info if each.first is samples[0] else None))
        return result

    def _begin(self) -> None:
        self._responses: list[tuple[dict, GroupSample]] = []
        self._finished: list[_Finished] = []
        self._resumed: list[MetaExperience] = []  # constructions of earlier rollouts
        self._first_start: float | None = None  # of a construction
        self._dispatched = 0  # groups

    def _end_constructions(self) -> tuple[int, float]:
        """Wait for the rollout's constructions, or break them off.

        Returns:
            Tokens that were generated in vain, and seconds of waiting for what must not be broken off.
        """
        if self.mel.construction != "deferred":
            self._wait(self._constructions.finish())
            return 0, 0.0
        begun = time.monotonic()
        self._wait(self._constructions.finish_those_at_their_bound())
        waited = time.monotonic() - begun
        if self._episodes.can_carry(self.rollouts):
            return self._wait(self._constructions.break_off(), "requests that were broken off do not end"), waited
        self._wait(self._constructions.finish())
        return 0, waited

    def _wait(self, coroutine: Coroutine[Any, Any, Any], problem: str | None = None) -> Any:
        """The result of what runs on the constructions' loop; a stop does not wait for it.

        Args:
            coroutine: what to run.
            problem: what to warn of when it takes long.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        begun = time.monotonic()
        while not futures.wait([future], _STOP_POLL_S).done:
            self._heed_stop()
            if problem and time.monotonic() - begun > _PATIENCE_S:
                logger.warning(
                    f"{problem} after {_PATIENCE_S:.0f} s; waiting on (an agent that ignores its cancellation?)"
                )
                problem = None
        return future.result()

    def _heed_stop(self) -> None:
        if self.stop_file and self.stop_file.exists():
            raise Stopped

    def _start(self, candidates: Sequence[MetaExperience]) -> futures.Future:
        self._first_start = self._first_start or time.monotonic()
        return asyncio.run_coroutine_threadsafe(self._constructions.start(candidates), self._loop)

    def _finished_of(self, candidates: Sequence[MetaExperience]) -> list[MetaExperience]:
        going_on = set(map(id, self.carried))
        return [m for m in candidates if id(m) not in going_on]

    def _dispatch_prompts_to_vllm(self, *args: Any, **kwargs: Any) -> list[Any]:
        """As upstream's; for training it also requests the engine's log-probs where they are compared."""
        if not self._evaluating and self.carried and self._episodes.is_full(self.rollouts):
            self._resumed, self.carried = self.carried, []
            self._start(self._resumed).result()  # before the rollout's own requests
        given = self.args
        if not self._evaluating and rollout_log_probs.measured(self.mel, given.rollout.top_p):
            self.args = rollout_log_probs.asking(given)
        try:
            requests = super()._dispatch_prompts_to_vllm(*args, **kwargs)
        finally:
            self.args = given
        self._dispatched += len(requests)
        return requests

    def _process_response_into_experience(self, response: dict[str, Any], **kwargs: Any) -> Any:
        self._heed_stop()
        sample = group_sample.group_sample(super()._process_response_into_experience(response, **kwargs))
        if not self._evaluating:
            self._responses.append((response, sample))
            size = kwargs.get("n_samples_per_prompt", self.args.rollout.n_samples_per_prompt)
            if len(self._responses) == size:
                self._finish_group(self._responses)
                self._responses = []
        return sample

    def _finish_group(self, members: list[tuple[dict, GroupSample]]) -> None:
        group, candidates = self._group([response for response, _ in members]), []
        if self.mel.enable and not self._filtered_out(group):
            candidates = self._constructor.candidates(group)
        self._finished.append(_Finished(members[0][1], group, candidates))
        self._pace.finish_group(time.monotonic() - self._begun)
        if candidates and self._may_hold() and not self._pace.leaves_time(self._dispatched - len(self._finished)):
            self._constructions.hold(candidates)
        elif candidates:
            self._start(candidates)

    def _may_hold(self) -> bool:
        """Whether this rollout may carry over what it has not begun."""
        return (
            self.mel.construction == "deferred" and self.mel.max_carries > 0 and self._episodes.can_carry(self.rollouts)
        )

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
        tokens = own_tokens(response)
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        score = None if unjudged(response) else float(response["scores"])
        return Trajectory(tuple(tokens), text, score, bool(response.get("truncated")))
