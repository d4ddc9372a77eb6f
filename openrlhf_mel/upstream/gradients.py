"""The gradients that DeepSpeed has reduced so far in an optimizer step: their norm, and keeping two losses separate.

After a backward pass at the accumulation boundary, this rank's partition of the averaged gradient is in
`optimizer.averaged_gradients` (group -> list of tensors), under ZeRO-1, 2 and 3 alike. Another backward pass at the
boundary would overwrite it (ZeRO-1/2) or add to it (ZeRO-3). Setting the first loss's partition aside makes both
cases equal, and gives each loss its own norm at the cost of one more partition.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist


def without_norms(args: Any) -> str | None:
    """Why gradient norms per loss are not available with these settings (upstream's, nested); None when they are."""
    if args.ds.adam_offload:
        return "with --ds.adam_offload DeepSpeed keeps gradients in host memory"
    if args.actor.optim == "muon":
        return "with --actor.optim muon DeepSpeed orthogonalizes a gradient as soon as it is reduced"
    return None


class GradientLedger:
    """Reads and sets aside a DeepSpeed engine's averaged gradients."""

    def __init__(self, engine: Any) -> None:
        self._optimizer = engine.optimizer
        self._aside: dict[int, list[torch.Tensor]] = {}
        self._in_place = engine.zero_optimization_stage() == 3
        self._whole = engine.autotp_size() <= 1  # else a rank has a part of most tensors, and all of some
        # Offloaded gradients are kept elsewhere, and Muon orthogonalizes them at each boundary.
        muon = "muon" in type(engine.basic_optimizer).__name__.lower()
        self.available = not engine.zero_use_cpu_optimizer() and not muon

    def norm(self) -> float | None:
        """Norm of the averaged gradient over all ranks, before clipping; None when it is not available."""
        if not (self.available and self._whole):
            return None
        grads = [g for group in self._optimizer.averaged_gradients.values() for g in group or []]
        square = sum((g.float().square().sum() for g in grads), torch.zeros((), device=grads[0].device))
        dist.all_reduce(square, group=self._optimizer.dp_process_group)
        return math.sqrt(square.item()) / self._optimizer.loss_scale

    def set_aside(self) -> None:
        """Take the averaged gradient out of the engine, which then starts the next backward pass from zero."""
        if not self.available:
            return
        averaged = self._optimizer.averaged_gradients
        self._aside = {i: [g.clone() for g in group] if self._in_place else group for i, group in averaged.items()}
        for i, group in averaged.items():
            if self._in_place:
                torch._foreach_zero_(group)  # ZeRO-3 adds into these very buffers
            else:
                averaged[i] = None

    def add_back(self) -> None:
        """Add the gradient that was set aside to the engine's averaged gradient."""
        for i, group in self._aside.items():
            torch._foreach_add_(self._optimizer.averaged_gradients[i], group)
        self._aside = {}
