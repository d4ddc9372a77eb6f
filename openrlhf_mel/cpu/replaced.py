"""What stands in the place of upstream's and vLLM's own where real vLLM runs without a GPU, line by line.

Everything else of OpenRLHF's rollout is its own code: `RolloutRayActor`, `create_vllm_engines`, the agent executor,
`WorkerWrap`, `broadcast_to_vllm`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from openrlhf_mel.cpu.gloo import GlooGroup


def plain_linear(layer: Any, remove_weight: bool) -> None:
    """In the place of vLLM's choice of a matrix product: torch's own, on the weight itself."""
    layer.cpu_linear = torch.nn.functional.linear


class Replacement(NamedTuple):
    """`name`, dotted, is looked up by its module at run time; `by` has its arguments."""

    name: str
    by: Any
    reason: str


IN_WORKER = (
    Replacement(
        "openrlhf.utils.distributed_util.stateless_init_process_group",
        GlooGroup,
        "NCCL needs GPUs; `WorkerWrap.init_process_group` looks it up here",
    ),
    Replacement(
        "vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm",
        plain_linear,
        "packs a weight for oneDNN and drops the original, so nothing could be handed over; of lm_head it keeps the "
        "original and computes with the packed copy, which weight synchronization would leave stale",
    ),
)
IN_POLICY = (
    Replacement(
        "openrlhf.trainer.ray.ppo_actor.stateless_init_process_group",
        GlooGroup,
        "NCCL needs GPUs; `ActorPPOTrainer._init_vllm_sync_group` looks it up here",
    ),
)


def install(replacements: Iterable[Replacement]) -> None:
    """Put them in place, in this process."""
    for replacement in replacements:
        module, _, name = replacement.name.rpartition(".")
        setattr(importlib.import_module(module), name, replacement.by)
