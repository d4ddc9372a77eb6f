"""The asynchronous trainer (`--train.async_enable`): rollouts are made in one actor while another trains.

Upstream's lock around generation (without partial rollouts) is held until the rollout's meta-experiences are done, as
they are part of `generate_samples`; with partial rollouts upstream pauses the engines for the hand-over of weights, and
M's requests wait and go on like any other. Either way a group's meta-experiences come through the queue on its first
sample.
"""

from __future__ import annotations

from typing import Any

import ray
from openrlhf.trainer import ppo_trainer_async

from openrlhf_mel.errors import Stopped
from openrlhf_mel.upstream import samples
from openrlhf_mel.upstream.trainer import MELSteps

_UpstreamGenerator = ppo_trainer_async.GenerateSamplesActor.__ray_metadata__.modified_class
_UpstreamTraining = ppo_trainer_async.TrainingActor.__ray_metadata__.modified_class
_UpstreamAsync = ppo_trainer_async.PPOTrainerAsync.__ray_metadata__.modified_class


class GeneratingActor(_UpstreamGenerator):
    """Upstream's, with MEL's samples generator."""

    def fit(self, episode: int, total_consumed_prompts: int) -> None:
        """Upstream's; after a resume the generator counts on from the rollouts that were consumed."""
        per_call = self.args.rollout.vllm_generate_batch_size
        self.samples_generator.step = total_consumed_prompts // per_call
        self.samples_generator.stop_file = None  # the training actor looks, and saves first
        super().fit(episode, total_consumed_prompts)


class TrainingActor(MELSteps, _UpstreamTraining):
    """Upstream's, with MEL's steps."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """As for every trainer; a generator that waits at a queue of a trainer that has stopped would wait for ever."""
        try:
            super().fit(*args, **kwargs)
        except Stopped:
            self.rollout_queue.shutdown(force=True)
            self.rollout_slots.shutdown(force=True)
            raise


class MELTrainerAsync(_UpstreamAsync):
    """Upstream's pair of actors; importing this module makes them MEL's."""


# Upstream looks these up in its own module, in the process of `MELTrainerAsync` and in those of the two actors.
ppo_trainer_async.SamplesGenerator = samples.MetaExperienceGenerator
ppo_trainer_async.GenerateSamplesActor = ray.remote(GeneratingActor)
ppo_trainer_async.TrainingActor = ray.remote(TrainingActor)
RemoteMELTrainerAsync = ray.remote(MELTrainerAsync)
