"""Tokens of responses: their mean, by correctness, and what a correct response costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.estimators import mean_interval


def token_statistics(
    tokens: Sequence[Sequence[int | None]], correct: Sequence[Sequence[bool]]
) -> dict[str, Any] | None:
    """Of sampled responses, one row per question; None where a backend did not count some of them.

    Returns:
        `mean` with `ci95` over questions (t-interval of the questions' means; absent for a single question); `correct` and
        `wrong`, the means of these responses; `per_correct`, all tokens over the number of correct responses. None where
        there is no such response.
    """
    if not tokens or any(count is None for row in tokens for count in row):
        return None
    counts = np.array(tokens, dtype=float)
    right = np.array(correct, dtype=bool)
    found: dict[str, Any] = {"mean": float(counts.mean())}
    if len(counts) > 1:
        found["ci95"] = list(mean_interval(counts.mean(axis=1)))
    for name, chosen in (("correct", right), ("wrong", ~right)):
        found[name] = float(counts[chosen].mean()) if chosen.any() else None
    found["per_correct"] = float(counts.sum() / right.sum()) if right.any() else None
    return found
