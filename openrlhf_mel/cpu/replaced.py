"""The names of upstream and vLLM that are replaced where real vLLM runs without a GPU.

The rest of OpenRLHF's rollout runs unchanged: `RolloutRayActor`, `create_vllm_engines`, the agent executor,
`WorkerWrap`, `broadcast_to_vllm`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from openrlhf_mel.cpu.gloo import GlooGroup


def plain_linear(layer: Any, remove_weight: bool) -> None:
    """Torch's own matrix product, on the weight itself, instead of vLLM's choice."""
    layer.cpu_linear = torch.nn.functional.linear


class Replacement(NamedTuple):
    """`name`, dotted, is looked up by its module at run time; `by` takes the same arguments."""

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
