"""RFT instead of upstream's policy loss: the mean NLL of an optimizer step's correct responses (paper 4.4)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn as nn
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm

from openrlhf_mel.method import nll_loss
from openrlhf_mel.settings.paradigms import PARADIGMS


class RejectionPolicyLoss(nn.Module):
    """RFT instead of upstream's `PolicyLoss`: called with the same arguments, returns the same tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.correct: torch.Tensor | None = None  # (B,) of the current micro-batch

    def forward(
        self,
        log_probs: torch.Tensor,
        old_log_probs: torch.Tensor,
        advantages: torch.Tensor,
        action_mask: torch.Tensor,
        rollout_log_probs: torch.Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: torch.Tensor | None = None,
        global_batch_size: torch.Tensor | float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        """(loss, clip ratio, KL, None, None), as upstream unpacks them; nothing is clipped, so the second and third are 0.

        Args:
            log_probs, action_mask: (B, T). The other tensors are not used: RFT has no ratio and no advantage.
            global_batch_size: correct responses only (`iter_counting_correct`, `CorrectCountingBuffer`).
        """
        assert self.correct is not None and global_batch_size is not None, "set for each micro-batch"
        loss = nll_loss.rejection_loss(log_probs, action_mask, self.correct, global_batch_size, dp_size)
        zero = torch.zeros((), device=log_probs.device)
        return loss, zero, zero, None, None


class CorrectCountingBuffer(NaiveReplayBuffer):
    """Upstream's buffer; with dynamic batches, RFT's denominator is the number of correct responses."""

    def __init__(self, correct_at: float, *args: Any) -> None:
        super().__init__(*args)
        self.correct_at = correct_at

    def setup_dynamic_batch(self, strategy: Any) -> None:
        """Upstream's set-up, then the count of every optimizer step over all ranks."""
        super().setup_dynamic_batch(strategy)
        counts, window = [], []
        for indices, last in zip(self.dynamic_indices, self.dynamic_optimizer_step, strict=True):
            window.append(sum(bool(self.items[i].scores >= self.correct_at) for i in indices))
            if last:
                counts += [float(sum(window))] * len(window)
                window = []
        group = strategy.ds_device_mesh["dp"].get_group()
        total = torch.tensor(counts, device=torch.cuda.current_device())
        torch.distributed.all_reduce(total, group=group)
        self.dynamic_global_batch_size = total.tolist()


def iter_counting_correct(data_iter: Any, strategy: Any, accumulated_gradient: int, mask_fn: Any) -> Iterator[Any]:
    """Upstream's window over an optimizer step; where only correct responses are learned, only they are its samples.

    Its tokens stay those of all responses: upstream's mean entropy (`actor.entropy_coef` 0) divides by them.
    """
    mel = strategy.args.mel
    if not PARADIGMS[mel.algorithm].correct_only:
        yield from iter_grad_accum_global_norm(data_iter, strategy, accumulated_gradient, mask_fn)
        return

    def correct_only(item: Any) -> torch.Tensor:
        return mask_fn(item) * (item.scores >= mel.correct_at)[:, None]

    whole, correct = (
        iter_grad_accum_global_norm(items, strategy, accumulated_gradient, mask)
        for items, mask in zip(itertools.tee(data_iter), (mask_fn, correct_only), strict=True)
    )
    for (item, of_all), (_, of_correct) in zip(whole, correct, strict=True):
        yield item, of_all | {"global_batch_size": of_correct["global_batch_size"]}
