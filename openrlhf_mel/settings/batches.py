"""Which part of a rollout upstream can train on.

Ranks run the same collectives, so each needs as many micro-batches as the others. A whole rollout is checked for that
before the run starts; the last one of an episode holds what is left of the data, and may not divide. Upstream would
hang in it, or leave samples out in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def ranks(values: Mapping[str, Any]) -> int:
    """Data-parallel ranks of the policy, from upstream's flags by dotted name; at least 1, so that a check can go on."""
    world = values["actor.num_nodes"] * values["actor.num_gpus_per_node"]
    return max(1, world // max(1, values["ds.ring_attn_size"] * values["ds.tensor_parallel_size"]))


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
