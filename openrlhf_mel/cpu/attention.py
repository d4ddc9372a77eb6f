"""Attention over packed rows without flash-attn: rows are concatenated, and each attends only to itself.

A row begins at each position 0. The mask is quadratic in the packed length, which is acceptable for the tiny models of
this runtime.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "mel_cpu_packed"  # transformers refuses a custom name with "flash" in it


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row.

    Args:
        query: (B, heads, T, head size); key and value may have fewer heads (grouped-query attention).
        position_ids: (B, T), restarting at 0 with every row.

    Returns:
        (B, T, heads, head size), and no weights.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    assert position_ids is not None, "packed rows are told apart by their positions"
    row = (position_ids == 0).cumsum(-1)
    length = query.shape[2]
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    mask = (row[:, :, None] == row[:, None, :]) & causal
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None], scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the attention known to transformers under `NAME`."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
