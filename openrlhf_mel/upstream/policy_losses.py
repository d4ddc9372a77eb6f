"""The policy losses that OpenRLHF lacks, by the name that a paradigm gives (`settings/paradigms.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn

from openrlhf_mel.settings.paradigms import Paradigm
from openrlhf_mel.upstream.rejection import RejectionPolicyLoss


class TokenSumPolicyLoss(nn.Module):
    """Dr. GRPO in the place of upstream's `PolicyLoss`: 1/N sum_i 1/L sum_t of upstream's own clipped term.

    N responses in the optimizer step, L the same for all, so that a token weighs the same whatever its response's
    length. Upstream's sum over tokens divides by whatever number of tokens it is told: here by N L.

    Args:
        policy_loss: upstream's, with its clip and its rollout correction.
        length: L, in tokens.
    """

    def __init__(self, policy_loss: Any, length: int) -> None:
        super().__init__()
        policy_loss.token_level_loss = True
        self._policy_loss, self._length = policy_loss, length

    def forward(
        self, *tensors: torch.Tensor, global_batch_size: torch.Tensor | float, **others: Any
    ) -> tuple[torch.Tensor, ...]:
        """As upstream's, which unpacks (loss, clip ratio, KL, two of the correction).

        Args:
            global_batch_size: N over all ranks, divided by the accumulation steps.
        """
        others["batch_num_tokens"] = global_batch_size * self._length
        return self._policy_loss(*tensors, global_batch_size=global_batch_size, **others)


def policy_loss(paradigm: Paradigm, upstreams: nn.Module, args: Any) -> nn.Module:
    """The paradigm's policy loss.

    Args:
        upstreams: the one that upstream made from its arguments.
        args: these arguments, nested.
    """
    return _OWN[paradigm.loss](upstreams, args) if paradigm.loss else upstreams


_OWN: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "rejection": lambda upstreams, args: RejectionPolicyLoss(),
    "token_sum": lambda upstreams, args: TokenSumPolicyLoss(upstreams, args.rollout.max_new_tokens),
}
