"""The policy's entropy from the tokens that it sampled. Pure torch."""

from __future__ import annotations

import torch


class SampledEntropy:
    """By Monte Carlo: the mean of -log pi over tokens that the policy sampled itself.

    Unbiased where rollouts are sampled from the whole distribution (`rollout.top_p` 1). It costs nothing: upstream has
    computed these log-probabilities before the update. Upstream's own entropy needs another (tokens, V) matrix.

    Attributes:
        sums: (2,), the sum of -log pi in nats, and the number of tokens; ranks add theirs up.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)

    def reset(self) -> None:
        """Forget all tokens."""
        self.sums.zero_()

    def add(self, log_probs: torch.Tensor, mask: torch.Tensor) -> None:
        """`log_probs` (B, T) of sampled tokens, `mask` (B, T) 1 where they are the policy's own."""
        self.sums += torch.stack([-(log_probs * mask).sum(), mask.sum()]).to(self.sums)
