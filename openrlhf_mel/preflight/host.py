"""Host memory of a node: sleeping and offloaded tensors are there, in page-locked blocks.

Torch rounds a page-locked block up to a power of two (`CachingHostAllocatorImpl::allocate`) and keeps a freed one: the
blocks of engines and policy exist at the same time, although they sleep in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from openrlhf_mel.preflight.memory import BF16, FP32, MemoryPlan
from openrlhf_mel.preflight.problems import Problem

_SUB_GROUP = 1_000_000_000  # DeepSpeed's default sub_group_size, which upstream does not change ("auto"), in elements
# The allocator of GPU memory: a tensor of 10 MiB or more has a segment of its own, of a multiple of 2 MiB; smaller ones
# share segments of 20 MiB; those of up to 1 MiB share segments of 2 MiB.
_MIB = 2**20
_ALONE, _STEP, _SHARED, _SMALL = 10 * _MIB, 2 * _MIB, 20 * _MIB, _MIB


def host_bytes(plan: MemoryPlan, gpus_per_node: int) -> dict[str, float]:
    """Bytes while every rank loads the model, and bytes of what sleeps or is offloaded.

    Under ZeRO-3 at most one rank per node loads at a time.
    """
    loading = BF16 * plan.shape.parameters * (gpus_per_node if plan.stage < 3 else 1)
    engine = sum(map(page_locked, segments(engine_tensors(plan)))) if plan.shared and plan.engine_sleeps else 0
    policy = _adam_offloaded(plan) if plan.offload else _asleep(plan) if plan.policy_sleeps else 0
    return {"loading": loading, "offloaded": (policy + engine) * gpus_per_node}


def check(needs_gib: dict[str, float], node_gib: float | None) -> Iterator[Problem]:
    """What a node needs at each moment against what it has (None: not known), in GiB."""
    moment = max(needs_gib, key=lambda name: needs_gib[name])
    if node_gib and needs_gib[moment] > node_gib:
        yield Problem(
            f"host memory of a node: {needs_gib[moment]:.0f} GiB for {moment} alone, found "
            f"{node_gib:.0f}; --ds.zero_stage 3 loads once a node, and --vllm.enable_sleep, --ds.enable_sleep and "
            "--ds.adam_offload move less when left out"
        )


def page_locked(size: int) -> int:
    """Bytes that a block of `size` bytes occupies."""
    return 1 << (size - 1).bit_length()


def sub_groups(plan: MemoryPlan) -> list[int]:
    """Elements of each sub-group of a rank's partition. Each has its own fp32 weights, Adam's moments and gradient.

    One is of the matrices, one of biases and norms, which upstream exempts from weight decay. ZeRO-3 ends a sub-group
    with the tensor that brings it to `_SUB_GROUP`, and divides each tensor among all ranks (stage3.py:
    `_create_fp16_sub_groups`).
    """
    whole = plan.trained == plan.shape.parameters
    groups = [plan.shape.matrices, plan.shape.vectors] if whole else [[plan.trained]]  # LoRA's adapters are matrices
    if plan.stage < 3:
        return [math.ceil(sum(group) / plan.ranks) for group in groups]
    pieces = []
    for group in groups:
        piece = 0
        for size in group:
            if piece >= _SUB_GROUP:
                pieces.append(piece)
                piece = 0
            piece += math.ceil(size / plan.ranks)
        pieces.append(piece)
    return pieces


def _asleep(plan: MemoryPlan) -> float:
    """fp32 weights and both moments, one block each; under ZeRO-3 also one block of all gradients."""
    pieces = sub_groups(plan)
    states = 3 * sum(page_locked(FP32 * piece) for piece in pieces)
    return states + (page_locked(BF16 * sum(pieces)) if plan.stage == 3 else 0)


def _adam_offloaded(plan: MemoryPlan) -> float:
    """fp32 gradients are page-locked, moments are not; for bf16 weights and gradients it depends on the stage."""
    pieces = sub_groups(plan)
    states = sum(page_locked(FP32 * piece) + 2 * FP32 * piece for piece in pieces)
    if plan.stage == 3:
        return states + FP32 * sum(pieces) + page_locked(BF16 * sum(pieces))
    weights = sum(page_locked(FP32 * piece) + page_locked(BF16 * piece) for piece in pieces)
    # Accumulated gradients are whole tensors, each on the rank that owns its partition.
    accumulated = sum(page_locked(BF16 * size) for size in plan.shape.matrices) * plan.trained / plan.shape.parameters
    return states + weights + (accumulated / plan.ranks if plan.accumulates else 0)


def engine_tensors(plan: MemoryPlan) -> Iterator[int]:
    """Bytes of each tensor of an engine's weights on one GPU: vLLM fuses q, k and v, and gate and up."""
    s, ranks = plan.shape, plan.engine_ranks
    kv = max(1, s.kv_heads // ranks) * s.head_dim
    layer = [(s.q // ranks + 2 * kv) * s.hidden, s.q // ranks * s.hidden, 2 * s.ffn // ranks * s.hidden]
    layer += [s.ffn // ranks * s.hidden, s.hidden, s.hidden]
    embeddings = [math.ceil(s.vocabulary / ranks) * s.hidden] * (1 if s.tied else 2)
    return (BF16 * size for size in [*embeddings, *layer * s.layers])


def segments(tensors: Iterable[int]) -> Iterator[int]:
    """Bytes of the segments of GPU memory that hold `tensors`: vLLM's sleep (level 1) copies each to a block."""
    room = {_STEP: 0, _SHARED: 0}
    for size in tensors:
        if size >= _ALONE:
            yield math.ceil(size / _STEP) * _STEP
            continue
        segment = _STEP if size <= _SMALL else _SHARED
        if size > room[segment]:
            yield segment
            room[segment] = segment
        room[segment] -= size
