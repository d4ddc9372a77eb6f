"""GPU memory in use, before and after."""

from __future__ import annotations

# More than the differences of libraries' buffers, and less than half of 0.56 GiB: Adam's states (8 bytes per parameter)
# of first_hour.py's default model on each of 8 GPUs. The check detects that they do not leave the GPU.
GROWTH_GIB = 0.25


def note(least: dict[int, float]) -> None:
    """Keep the least of each GPU's memory in use so far, in GiB and over all processes."""
    for gpu, used in enumerate(used_gib()):
        least[gpu] = min(used, least.get(gpu, used))


def used_gib() -> list[float]:
    """GiB in use on each GPU now."""
    import torch

    found = (torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count()))
    return [(total - free) / 2**30 for free, total in found]


def same(before: dict[int, float], after: dict[int, float]) -> bool:
    """Whether all GPUs were measured both times, and none uses more than before."""
    return bool(before) and before.keys() == after.keys() and all(after[i] - before[i] <= GROWTH_GIB for i in before)
