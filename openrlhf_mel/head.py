"""The NLL of given tokens without a (tokens, V) matrix of logits. Pure torch.

A model with 151,936 tokens and 1,024 of M's would hold 0.6 GB of fp32 logits, as much of their softmax and as much of
their gradient. Here the head's output is made and consumed a chunk at a time, and made again in the backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 128  # positions whose logits are alive at once: large enough for a GPU, 78 MB of fp32 at 151,936 tokens


def token_nll(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """`-log softmax(head(hidden))[targets]` in at least fp32, in nats.

    Args:
        head: (n, H) hidden states -> (n, V) logits, position by position.
        hidden: (B, T, H).
        targets: (B, T) token ids.
        chunk: positions whose logits exist at the same time.

    Returns:
        (B, T).
    """

    def part(states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = head(states)
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), ids, reduction="none")

    states, ids = hidden.reshape(-1, hidden.size(-1)).split(chunk), targets.reshape(-1).split(chunk)
    parts = [checkpoint(part, s, i, use_reentrant=False) for s, i in zip(states, ids, strict=True)]
    return torch.cat(parts).view_as(targets)


class NLLHead:
    """Runs a causal language model's own forward with `token_nll` in the place of its head.

    The head stays a module that the model calls, so that whatever hangs on it (ZeRO-3 gathers its weights before and
    after, LoRA adds to it) works as ever. Models that do something to their logits after the head (a soft cap, a
    scale) are found out in the first forward, and then get their logits made, at the needed positions alone.
    """

    def __init__(self, module: nn.Module) -> None:
        """`module` is the causal language model itself, not an engine around it."""
        self._head: nn.Module = module.get_output_embeddings()
        self._last: bool | None = None  # whether the head's output is the model's; not known yet

    def nll(
        self, model: Callable[..., Any], targets: torch.Tensor, positions: torch.Tensor, **inputs: Any
    ) -> torch.Tensor:
        """(B, T) NLL of `targets` (B, T).

        Args:
            model: the model, or the engine around it; called with `inputs` and `logits_to_keep`.
            positions: (T,), where in the sequence `targets` are predicted, the same for each row.
        """
        if self._last is not False:
            output, made = self._forward(model, targets, logits_to_keep=positions, **inputs)
            if self._last is None:
                # A NaN equals itself here: ranks have to agree, whatever their rows.
                self._last = torch.allclose(output, made, rtol=0, atol=0, equal_nan=True)
            if self._last:
                return output[..., 0]
        logits = model(logits_to_keep=positions, **inputs).logits
        return token_nll(lambda chosen: chosen, logits, targets)

    def _forward(self, model: Callable[..., Any], targets: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, ...]:
        made: list[torch.Tensor] = []
        own, instance = self._head.forward, vars(self._head).get("forward")

        def instead(hidden: torch.Tensor) -> torch.Tensor:
            made.append(token_nll(own, hidden, targets)[..., None])
            return made[-1]

        self._head.forward = instead
        try:
            return model(**inputs).logits, made[-1]
        finally:
            del self._head.forward  # the class's own again, or what stood in its place
            if instance is not None:
                self._head.forward = instance
