"""GPU memory in use, before and after."""

from __future__ import annotations

# More than libraries' buffers differ by, and less than half of what Adam's states (8 bytes a parameter) of first_hour.py's
# default model take of each of 8 GPUs, 0.56 GiB: that they do not leave the GPU is the fault that is looked for.
GROWTH_GIB = 0.25


def note(least: dict[int, float]) -> None:
    """Keep the least of each GPU's memory in use, in GiB and by whatever process, that was seen so far."""
    for gpu, used in enumerate(used_gib()):
        least[gpu] = min(used, least.get(gpu, used))


def used_gib() -> list[float]:
    """Of each GPU, now."""
    import torch

    found = (torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count()))
    return [(total - free) / 2**30 for free, total in found]


def same(before: dict[int, float], after: dict[int, float]) -> bool:
    """Whether all GPUs were measured both times, and none has more in use than it had."""
    return bool(before) and before.keys() == after.keys() and all(after[i] - before[i] <= GROWTH_GIB for i in before)
