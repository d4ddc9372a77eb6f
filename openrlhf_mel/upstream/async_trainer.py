"""The asynchronous trainer (`--train.async_enable`): one actor generates rollouts while another trains.

Without partial rollouts upstream's lock around generation is held until the rollout's meta-experiences are complete,
because `generate_samples` includes them. With partial rollouts upstream pauses the engines for weight synchronization,
and M's requests wait and continue like any other. Either way a group's meta-experiences travel through the queue on its
first sample.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer_async

from openrlhf_mel.errors import Stopped
from openrlhf_mel.upstream import samples_generator
from openrlhf_mel.upstream.trainer import MELSteps

_UpstreamGenerator: Any = ppo_trainer_async.GenerateSamplesActor.__ray_metadata__.modified_class
_UpstreamTraining: Any = ppo_trainer_async.TrainingActor.__ray_metadata__.modified_class
_UpstreamAsync: Any = ppo_trainer_async.PPOTrainerAsync.__ray_metadata__.modified_class


class ReadAhead:
    """The rollout queue. Its next evaluation can be taken out first; earlier items are read afterwards, in order."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._passed: deque[Any] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def get(self, block: bool = True) -> Any:
        """The next item for upstream's loop."""
        return self._passed.popleft() if self._passed else self._queue.get(block=block)

    def evaluation(self) -> tuple[str, int, dict[str, float]] | None:
        """Wait for the next evaluation; None when the generator has ended without one."""
        while "done" not in self._passed:
            payload = self._queue.get(block=True)
            if payload[0] == "eval":
                return payload
            self._passed.append(payload)
        return None


class GeneratingActor(_UpstreamGenerator):
    """Upstream's, with MEL's samples generator."""

    def fit(self, episode: int, total_consumed_prompts: int) -> None:
        """As upstream's; after a resume the generator counts its rollouts on from those that were consumed."""
        per_call = self.args.rollout.vllm_generate_batch_size
        self.samples_generator.rollouts = total_consumed_prompts // per_call
        self.samples_generator.stop_file = None  # the training actor looks for it, and saves first
        super().fit(episode, total_consumed_prompts)

    def _should_eval(self, global_step: int) -> bool:
        """As upstream's, but never for an earlier step: a returned token names weights that no longer exist."""
        return global_step > self._last_eval_step and super()._should_eval(global_step)


class TrainingActor(MELSteps, _UpstreamTraining):
    """Upstream's, with MEL's steps."""

    rollout_queue: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rollout_queue = ReadAhead(self.rollout_queue)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """As `MELSteps.fit`; a stop also unblocks the generator, which would wait for ever at the queue."""
        try:
            super().fit(*args, **kwargs)
        except Stopped:
            self.rollout_queue.shutdown(force=True)
            self.rollout_slots.shutdown(force=True)
            raise

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """As `MELSteps.train_step`; but first wait for a due evaluation of the current weights.

        Upstream trains during the evaluation, and would save the next step's weights as the best under this step's
        name. Its loop has just freed the slot at which the generator evaluates. It never reads an evaluation itself,
        because each one is waited for here.
        """
        due = self.args.eval.dataset and global_step and not global_step % self.args.eval.steps
        if due and (payload := self.rollout_queue.evaluation()):
            _, step, evaluation = payload
            evaluation = self.monitor.evaluations.get(step, evaluation)  # a resume evaluates its step again
            self.rollout_slots.put(global_step, block=True)
            for tracker in filter(None, (self.wandb_logger, self.tensorboard_logger)):
                tracker.log_eval(step, evaluation)
            self.save_best_checkpoint(evaluation, step, dict(self._latest_client_states or self._restored))
        return super().train_step(rollout_samples, global_step)


class MELTrainerAsync(_UpstreamAsync):
    """Upstream's pair of actors; importing this module replaces them by MEL's."""


# Upstream looks these up in its own module, in the process of `MELTrainerAsync` and in those of the two actors.
ppo_trainer_async.SamplesGenerator = samples_generator.MetaExperienceGenerator
ppo_trainer_async.GenerateSamplesActor = ray.remote(GeneratingActor)
ppo_trainer_async.TrainingActor = ray.remote(TrainingActor)
RemoteMELTrainerAsync = ray.remote(MELTrainerAsync)
