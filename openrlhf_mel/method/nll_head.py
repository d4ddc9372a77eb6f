"""The NLL of given tokens without a (tokens, V) matrix of logits. Pure torch.

With a vocabulary of 151,936 and 1,024 tokens of Ms, the fp32 logits, their softmax and their gradient would take 0.6 GB
each. Here the head's output is computed and consumed chunk by chunk, and recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from openrlhf_mel.method.nll_chunks import chunk_length


def token_nll(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    chunk: int | None = None,
) -> torch.Tensor:
    """`-log softmax(head(hidden))[targets]` in at least fp32, in nats.

    Args:
        head: (n, H) hidden states -> (n, V) logits, position by position.
        hidden: (B, T, H).
        targets: (B, T) token ids.
        chunk: positions whose logits exist at the same time; by default `chunk_length`.

    Returns:
        (B, T).
    """

    def part(states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = head(states)
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), ids, reduction="none")

    chunk = chunk or chunk_length(targets.numel())
    states, ids = torch.split(hidden.reshape(-1, hidden.size(-1)), chunk), torch.split(targets.reshape(-1), chunk)
    parts = [checkpoint(part, s, i, use_reentrant=False) for s, i in zip(states, ids, strict=True)]
    return torch.cat(parts).view_as(targets)


class CausalModel(Protocol):
    """What is used here of a causal language model of transformers, besides calling it."""

    def get_output_embeddings(self) -> nn.Module:
        """The head."""


class NLLHead:
    """Runs a causal language model's own forward with `token_nll` in the place of its head.

    The head stays a module that the model calls, so its hooks still work: ZeRO-3 gathers its weights, LoRA adapts it.
    For a model that changes its logits after the head (a soft cap, a scale) the model's own logits are used: at the
    needed positions alone, but without chunks.
    """

    def __init__(self, module: CausalModel) -> None:
        """`module` is the causal language model itself, not an engine around it."""
        self._head = module.get_output_embeddings()
        self._last: bool | None = None  # whether the head's output is the model's output; None: not known yet

    def nll(
        self, model: Callable[..., Any], targets: torch.Tensor, positions: torch.Tensor, **inputs: Any
    ) -> torch.Tensor:
        """(B, T) NLL of `targets` (B, T). All ranks have to make the first call together.

        Args:
            model: the model, or the engine around it; called with `inputs` and `logits_to_keep`.
            positions: (T,), where in the sequence `targets` are predicted, the same for each row.
        """
        if self._last is None:
            self._last = self._is_last(model, targets.device)
        if not self._last:
            logits = model(logits_to_keep=positions, **inputs).logits
            return token_nll(lambda chosen: chosen, logits, targets)
        with self._replaced(lambda own, hidden: token_nll(own, hidden, targets)[..., None]):
            nll: torch.Tensor = model(logits_to_keep=positions, **inputs).logits[..., 0]
        return nll

    @torch.no_grad()
    def _is_last(self, model: Callable[..., Any], device: torch.device) -> bool:
        """Whether the model returns its head's output unchanged: tried on two tokens, with equal logits on all ranks."""
        given = torch.empty(0)

        def far_apart(own: Callable[..., torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
            nonlocal given
            logits = own(hidden)
            given = torch.linspace(-1e3, 1e3, logits.numel(), device=logits.device).view_as(logits)
            return given.clone()  # the model may change it in place

        ids = torch.arange(2, device=device)[None]
        with self._replaced(far_apart):
            return torch.equal(model(input_ids=ids, attention_mask=None, position_ids=ids).logits, given)

    @contextmanager
    def _replaced(self, instead: Callable[..., torch.Tensor]) -> Iterator[None]:
        """`instead(own forward, hidden states)` in the place of the head's forward."""
        own, instance = self._head.forward, vars(self._head).get("forward")
        self._head.forward = lambda hidden: instead(own, hidden)
        try:
            yield
        finally:
            del self._head.forward  # restores the class's own forward, or what replaced it before
            if instance is not None:
                self._head.forward = instance
