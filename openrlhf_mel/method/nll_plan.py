"""The rows of the NLL: their weights, and which rank learns which row in which optimizer step (Eq. 7-8). Pure.

The policy loss and the NLL never share a denominator: each row of the NLL has its own weight, which already
includes the outer mean over the whole optimizer step and all ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One kept M to learn: C_retro's ids, M's ids, and the question it belongs to."""

    context_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    question: str

    def __len__(self) -> int:
        """Tokens of the whole row."""
        return len(self.context_ids) + len(self.token_ids)


@dataclass(frozen=True)
class WeightedRow:
    """A row and its weight in the optimizer step's NLL. Weight 0: padding, so that ranks run the same collectives."""

    row: Row
    weight: float


def plan(
    rows: Sequence[Row],
    *,
    ranks: int,
    mean_over: str,
    questions: Sequence[float],
    max_rows: int,
    max_tokens: int | None = None,
) -> list[list[list[list[WeightedRow]]]]:
    """Which rank learns which rows: `plan[step][rank][micro_batch]` is a list of weighted rows.

    Every row occurs exactly once. Rows are distributed over the optimizer steps, and within a step over the ranks, by
    tokens (the longest first, to the rank with the fewest). In a step every rank has the same number of micro-batches,
    because ZeRO's collectives must match: a rank with fewer repeats a short row at weight 0. A step without rows has no
    micro-batch. The plan is deterministic, so every rank computes the same one from the same rows.

    Args:
        rows: the rollout's rows.
        ranks: data-parallel ranks.
        mean_over: `experiences` (each row 1/K, K rows in the step) or `questions` (1 / (Ms of its question in the
            step * the step's questions)).
        questions: of each optimizer step, how many questions it learns from, with or without an M.
        max_rows: rows of a micro-batch at most.
        max_tokens: padded tokens of a micro-batch at most, if given; a longer row gets a micro-batch of its own.
    """
    per_step = zip(_spread(list(rows), len(questions)), questions, strict=True)
    return [_plan_step(own, ranks, mean_over, count, max_rows, max_tokens) for own, count in per_step]


def _plan_step(
    rows: list[Row], ranks: int, mean_over: str, questions: float, max_rows: int, max_tokens: int | None
) -> list[list[list[WeightedRow]]]:
    if not rows:
        return [[] for _ in range(ranks)]
    of_question = Counter(row.question for row in rows)

    def weight(row: Row) -> float:
        return 1 / len(rows) if mean_over == "experiences" else 1 / (of_question[row.question] * questions)

    batches = [
        _micro_batches([WeightedRow(row, weight(row)) for row in own], max_rows, max_tokens)
        for own in _spread(rows, ranks)
    ]
    longest = max(map(len, batches))
    filler = [WeightedRow(min(rows, key=len), 0.0)]
    return [own + [filler] * (longest - len(own)) for own in batches]


def _spread(rows: list[Row], bins: int) -> list[list[Row]]:
    """Longest processing time first: each row, the longest first, goes to the bin with the fewest tokens."""
    filled: list[list[Row]] = [[] for _ in range(bins)]
    loads = [0] * bins
    for row in sorted(rows, key=_order, reverse=True):
        least = loads.index(min(loads))
        filled[least].append(row)
        loads[least] += len(row)
    return filled


def _micro_batches(rows: list[WeightedRow], max_rows: int, max_tokens: int | None) -> list[list[WeightedRow]]:
    batches: list[list[WeightedRow]] = []
    for weighted in rows:  # longest first, so the others of a batch are padded to its first row
        batch = batches[-1] if batches else []
        fits = 0 < len(batch) < max_rows
        if fits and max_tokens is not None:
            fits = len(batch[0].row) * (len(batch) + 1) <= max_tokens
        if fits:
            batch.append(weighted)
        else:
            batches.append([weighted])
    return batches


def _order(row: Row) -> tuple[int, str, tuple[int, ...], tuple[int, ...]]:
    return len(row), row.question, row.context_ids, row.token_ids
