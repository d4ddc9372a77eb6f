"""The rollouts of a run, which part of each upstream can train on, and the optimizer steps that it makes of it.

Ranks run the same collectives, so all need the same number of micro-batches. For a whole rollout this is checked before
the run starts. The last rollout of an episode holds the rest of the data, which may not divide: upstream would hang, or
drop samples silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def ranks(values: Mapping[str, Any]) -> int:
    """Data-parallel ranks of the policy, from upstream's flags by dotted name; at least 1, so that checks go on."""
    world: int = values["actor.num_nodes"] * values["actor.num_gpus_per_node"]
    shards: int = values["ds.ring_attn_size"] * values["ds.tensor_parallel_size"]
    return max(1, world // max(1, shards))


def unit(args: Any) -> int:
    """Samples of which a rollout must be a multiple, with upstream's nested arguments."""
    ranks = (
        args.actor.num_nodes * args.actor.num_gpus_per_node // args.ds.ring_attn_size // args.ds.tensor_parallel_size
    )
    return samples_unit(
        ranks,
        args.rollout.micro_batch_size,
        args.train.micro_batch_size,
        args.train.batch_size if args.train.dynamic_batch_enable else None,
    )


def samples_unit(ranks: int, rollout_micro: int, train_micro: int, dynamic_train_batch: int | None) -> int:
    """Samples of which a rollout must be a multiple: dynamic batches train whole optimizer steps only, else each rank takes
    whole micro-batches.

    Args:
        ranks: data-parallel ranks of the policy.
        rollout_micro, train_micro: `rollout.micro_batch_size` and `train.micro_batch_size`.
        dynamic_train_batch: `train.batch_size` where batches are dynamic, else None.
    """
    if dynamic_train_batch is not None:
        return dynamic_train_batch
    return ranks * (train_micro if ranks == 1 else math.lcm(rollout_micro, train_micro))


def whole(samples: list[Any], args: Any) -> list[Any]:
    """The first groups of a rollout, as many as make a multiple of `unit`; upstream keeps a group's samples together."""
    group, multiple = args.rollout.n_samples_per_prompt, unit(args)
    together = math.lcm(group, multiple)
    return samples[: len(samples) // together * together]


@dataclass(frozen=True)
class Episodes:
    """The rollouts of a run: in each episode full ones, then perhaps one of the rest of the data.

    The rest may not divide, and is then left out with its Ms; with few questions, Ms of earlier rollouts would outweigh its
    own. So no construction is carried over from it or into it.

    Attributes:
        full: full rollouts of an episode.
        rest: whether a last one has fewer questions.
        count: episodes.
    """

    full: int
    rest: bool
    count: int

    @classmethod
    def of(cls, questions: int, args: Any) -> Episodes:
        """Those of a data set with so many questions, with upstream's nested arguments."""
        full, rest = divmod(questions, args.rollout.batch_size)
        return cls(full, rest > 0, args.train.num_episodes)

    @property
    def rollouts(self) -> int:
        """Of the whole run."""
        return self._of_an_episode * self.count

    def is_full(self, before: int) -> bool:
        """Whether the rollout after `before` others is a full one."""
        return before % max(1, self._of_an_episode) < self.full

    def can_carry(self, before: int) -> bool:
        """Whether what the rollout after `before` others leaves unfinished can go on in a later one."""
        last = (self.count - 1) * self._of_an_episode + self.full - 1
        return self.is_full(before) and before < last

    @property
    def _of_an_episode(self) -> int:
        return self.full + self.rest


@dataclass(frozen=True)
class OptimizerSteps:
    """The optimizer steps of one pass over a rank's micro-batches.

    Attributes:
        ends: of each micro-batch, whether it is the last of its step.
        samples: of each step, over all ranks.
        share: of a micro-batch's loss in its step's, as upstream scales it.
    """

    ends: tuple[bool, ...]
    samples: tuple[int, ...]
    share: float


def windowed(micro_batches: int, window: int, samples: int) -> OptimizerSteps:
    """Steps of `window` micro-batches, of `samples` samples each over all ranks.

    The last micro-batch of the rollout ends a step even when the window is not full, as at the end of a data set.
    Upstream would carry these gradients over into the next rollout's step.
    """
    ends = tuple((i + 1) % window == 0 or i + 1 == micro_batches for i in range(micro_batches))
    sizes = tuple(min(window, micro_batches - done) * samples for done in range(0, micro_batches, window))
    return OptimizerSteps(ends, sizes, 1 / window)


def dynamic(ends: Sequence[bool], train_batch: int) -> OptimizerSteps:
    """Steps of `train_batch` samples, in micro-batches whose ends upstream has chosen."""
    return OptimizerSteps(tuple(map(bool, ends)), (train_batch,) * sum(ends), 1.0)
