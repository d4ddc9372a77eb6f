"""The difference between the engine that sampled a rollout and the policy that learns from it. Torch alone.

The policy gradient assumes that the policy sampled the rollout's tokens, but the engine did, with other kernels and, if
weight synchronization loses some, with other weights. The log-probs that both give each token show the difference.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def mismatch(parts: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """`rollout/logprob_diff_mean`, `rollout/logprob_diff_max` and `rollout/kl_k3`, in nats, over all tokens of `parts`.

    With d = log pi_policy - log pi_engine of a sampled token: mean and largest |d|, and the mean of exp(d) - 1 - d, which
    is never negative and, the tokens being the engine's samples, an unbiased estimate of KL(engine || policy): Schulman's
    k3 (http://joschu.net/blog/kl-approx.html).

    Args:
        parts: (engine, policy, mask), each (B, T): log-probs of the tokens, and where they are the engine's own.

    Returns:
        Empty where there is no token.
    """
    differences = [(policy.double() - engine.double())[mask.bool()] for engine, policy, mask in parts]
    d = torch.cat(differences) if differences else torch.empty(0)
    if not d.numel():
        return {}
    return {
        "rollout/logprob_diff_mean": d.abs().mean().item(),
        "rollout/logprob_diff_max": d.abs().max().item(),
        "rollout/kl_k3": (d.expm1() - d).mean().item(),
    }
