"""Which GPUs upstream asks Ray for, in bundles of one GPU each (`cli/train_ppo_ray.py: train`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Placement:
    """GPUs by what runs on them.

    Attributes:
        actors, engines, reference, rewards: GPUs of the policy, the engines, the reference model and the reward models;
            of the last three only those that they do not share with the policy.
        shared: engines run on the policy's GPUs. Never with the asynchronous trainer.
    """

    actors: int
    engines: int
    reference: int
    rewards: int
    shared: bool

    @property
    def total(self) -> int:
        """GPUs that the cluster must have."""
        return self.actors + self.engines + self.reference + self.rewards


def placement(values: Mapping[str, Any], *, engines_need_gpus: bool = True) -> Placement:
    """The GPUs of a run; on the CPU runtime the GPUs that Ray assumes. The transformers engine needs none."""
    colocated = values["train.colocate_all"]
    shared = colocated and not values["train.async_enable"]
    engines = (values["vllm.num_engines"] or 0) * values["vllm.tensor_parallel_size"]
    reference = values["ref.num_nodes"] * values["ref.num_gpus_per_node"]
    rewards = values["reward.num_nodes"] * values["reward.num_gpus_per_node"]
    judged = values["reward.remote_url"] or values["train.agent_func_path"]
    return Placement(
        actors=values["actor.num_nodes"] * values["actor.num_gpus_per_node"],
        engines=engines if engines_need_gpus and not shared else 0,
        reference=reference
        if values["algo.kl.init_coef"] > 0 and not (colocated or values["train.colocate_actor_ref"])
        else 0,
        rewards=0 if judged or colocated else rewards,
        shared=shared,
    )
