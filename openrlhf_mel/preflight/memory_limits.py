"""Whether a run's memory fits: each kind of GPU against its card, the KV cache, and what to change where it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from openrlhf_mel.preflight import memory
from openrlhf_mel.preflight.problems import Problem, warning

TIGHT = 0.95  # share of a card above which fragmentation may exhaust memory


def check(plan: memory.MemoryPlan) -> Iterator[Problem]:
    """Each kind of GPU against the card, and the KV cache against `data.max_len`."""
    for device in memory.devices(plan):
        yield from _check_device(plan, device)
    tokens = memory.kv_tokens(plan)
    if tokens < plan.max_len:
        yield Problem(
            f"--vllm.gpu_memory_utilization {plan.utilization}: beside its weights an engine has room for {tokens} tokens "
            f"of KV cache, less than --data.max_len {plan.max_len}, which vLLM refuses; raise it, or "
            "--vllm.tensor_parallel_size"
        )


def _check_device(plan: memory.MemoryPlan, device: memory.DeviceMemory) -> Iterator[Problem]:
    moment, need = device.peak()
    gib = f"{need / memory.GIB:.1f} GiB"
    card = f"the card has {plan.card / memory.GIB:.1f}"
    if device.role == "engine":
        if need > plan.card:
            yield Problem(f"--vllm.gpu_memory_utilization {plan.utilization}: an engine needs {gib}, {card}; lower it")
    elif device.role == "reference":
        if need > plan.card:
            yield Problem(
                f"memory of a GPU (reference): {gib}, {card}; lower --rollout.micro_batch_size or "
                "--rollout.max_tokens_per_gpu, or --ds.zero_stage 3"
            )
    elif need > plan.card:
        found = [f"{text}: {left / memory.GIB:.1f}" for text, left in remedies(plan, TIGHT * plan.card)]
        yield Problem(
            f"memory of a GPU ({device.role}): {gib} at {moment!r}, {card}; what to change, the cheapest first, with what "
            "is then needed: " + "; ".join(found or ["a smaller model"])
        )
    elif need > TIGHT * plan.card:
        yield warning(
            f"memory of a GPU ({device.role}): {gib} at {moment!r}, {card}: tight, and fragmentation comes on top"
        )


def remedies(plan: memory.MemoryPlan, limit: float) -> Iterator[tuple[str, float]]:
    """Changes that lower the peak to `limit` bytes, the cheapest first, each with the resulting peak.

    Changes add up; one that saves little is left out. The list ends with the first change that suffices.
    """
    before = memory.peak(plan)
    for text, fields in _changes(plan) if before > limit else ():
        changed = dataclasses.replace(plan, **fields)
        after = memory.peak(changed)
        if after > before - 0.25 * memory.GIB:
            continue
        plan, before = changed, after
        yield text, after
        if after <= limit:
            return


def _changes(plan: memory.MemoryPlan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes in order of cost: text, and the fields that change."""
    one = {"policy_tokens": plan.sequence, "log_prob_tokens": plan.sequence, "nll_tokens": plan.row}
    yield (
        "micro-batches of one sequence: --train.micro_batch_size 1 --rollout.micro_batch_size 1, or with dynamic batches "
        f"--train.max_tokens_per_gpu {plan.sequence}",
        one,
    )
    if plan.shared:
        yield "--vllm.enable_sleep (seconds a step)", {"engine_sleeps": True}
        yield "--ds.enable_sleep (seconds a step)", {"policy_sleeps": True}
    yield "--actor.gradient_checkpointing_enable (the policy's update a third slower)", {"checkpointing": True}
    for share in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        if plan.shared and share < plan.utilization:
            yield f"--vllm.gpu_memory_utilization {share} (fewer sequences at once)", {"utilization": share}
    if plan.stage < 3:
        yield "--ds.zero_stage 3 (more communication)", {"stage": 3}
    yield "--ds.adam_offload (slow optimizer steps, host memory, gradient norms not logged)", {"offload": True}
    for factor in (2, 4, 8):
        yield f"{factor * plan.ranks} GPUs for the policy", {"ranks": factor * plan.ranks}
    rank = 64
    yield f"--ds.lora.rank {rank} (another method)", {"trained": plan.shape.lora(rank)}
    yield "a shorter --rollout.max_new_tokens and --data.max_len (other results)", {
        "policy_tokens": plan.sequence // 2, "log_prob_tokens": plan.sequence // 2, "nll_tokens": plan.row // 2,
    }  # fmt: skip
