"""A micro-batch of Ms as tensors, padded or packed, and the NLL of its rows. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from openrlhf_mel.method.nll_head import NLLHead
from openrlhf_mel.method.nll_loss import row_mean
from openrlhf_mel.method.nll_plan import WeightedRow


@dataclass(frozen=True)
class NLLBatch:
    """A micro-batch of rows as tensors, padded on the left so that every M ends at the right edge.

    Attributes:
        input_ids, attention_mask, position_ids: (B, S).
        targets, mask: (B, T), M's ids and where they are, T the longest M.
        weights: (B,).
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def collate(cls, rows: Sequence[WeightedRow], pad_id: int, device: torch.device | str | int) -> NLLBatch:
        """Build the tensors of `rows`."""
        width = max(len(w.row) for w in rows)
        length = max(len(w.row.token_ids) for w in rows)
        ids = torch.full((len(rows), width), pad_id)
        targets = torch.full((len(rows), length), pad_id)
        attention = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for i, w in enumerate(rows):
            m = torch.tensor(w.row.token_ids)
            ids[i, width - len(w.row) :] = torch.tensor(w.row.context_ids + w.row.token_ids)
            attention[i, width - len(w.row) :] = 1
            targets[i, length - len(m) :] = m
            mask[i, length - len(m) :] = 1
        positions = (attention.cumsum(-1) - 1).masked_fill(attention == 0, 1)
        weights = torch.tensor([w.weight for w in rows], dtype=torch.float32)
        return cls(*(t.to(device) for t in (ids, attention, positions, targets, mask, weights)))

    @property
    def positions(self) -> torch.Tensor:
        """(T,), the positions that predict `targets`: the last of the row is M's end and predicts nothing."""
        width = self.input_ids.size(1)
        return torch.arange(width - self.targets.size(1) - 1, width - 1, device=self.input_ids.device)


def row_nll(head: NLLHead, model: Callable[..., Any], batch: NLLBatch, packed: bool) -> torch.Tensor:
    """The token-averaged NLL of each row, at temperature 1 (Eq. 8).

    Args:
        model: the model that `head` belongs to, or the engine around it.
        packed: concatenate the rows; positions restart with each row, and flash attention needs no mask then.

    Returns:
        (B,), in nats.
    """
    mask = batch.mask.bool()
    if not packed:
        nll = head.nll(
            model,
            batch.targets,
            batch.positions,
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        )
        return row_mean(nll, mask)
    real = batch.attention_mask.bool()
    predicting = torch.zeros_like(real)
    predicting[:, batch.positions] = mask
    nll = head.nll(
        model,
        batch.targets[mask][None],
        predicting[real].nonzero()[:, 0],
        input_ids=batch.input_ids[real][None],
        attention_mask=None,
        position_ids=batch.position_ids[real][None],
    )
    return row_mean(nll.new_zeros(mask.shape).masked_scatter(mask, nll), mask)
