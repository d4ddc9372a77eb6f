"""Token-averaged negative log-likelihoods: of kept meta-experiences (Eq. 8), and of correct responses (RFT). Pure torch.

    L_NLL = - E_{M in D_M*} [ 1/|M| sum_t log pi(M_t | C_retro, M_<t) ],    J = J_RLVR - nll_coef * L_NLL    (Eq. 8-10)

`row_mean` is the inner mean; the weights of the outer one are `nll_plan`'s.
"""

from __future__ import annotations

import torch


def row_mean(token_nll: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Token-averaged negative log-likelihood of each row (Eq. 8): every M weighs the same whatever its length.

    Args:
        token_nll: (B, T) of M's tokens, at temperature 1.
        mask: (B, T), 1 on M's tokens.

    Returns:
        (B,), in nats.
    """
    mask = mask.to(token_nll.dtype)
    return (token_nll * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def rejection_loss(
    log_probs: torch.Tensor, mask: torch.Tensor, correct: torch.Tensor, count: torch.Tensor | float, dp_size: int = 1
) -> torch.Tensor:
    """RFT (paper 4.4): mean over the optimizer step's correct responses of their token-averaged NLL.

    Args:
        log_probs: (B, T) of the responses' tokens.
        mask: (B, T), 1 on response tokens.
        correct: (B,), 1 for a correct response.
        count: correct responses of the whole step over all ranks, divided by the accumulation steps.
        dp_size: number of ranks, over which gradients will be averaged.

    Returns:
        A scalar; zero, with a gradient of zero, when no response is correct.
    """
    per_response = row_mean(-log_probs, mask)
    count = torch.as_tensor(count, dtype=log_probs.dtype, device=log_probs.device)
    return (per_response * correct).sum() / torch.where(count > 0, count, torch.ones_like(count)) * dp_size
