"""Accuracy by the length of a response. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.estimators import wilson_ends

_BINS, _BIN_SIZE = 8, 20  # at most 8 bins, with about 20 responses or more each


@dataclass(frozen=True)
class Measured:
    """A response of question number `question`: its length, and whether it is correct."""

    question: int
    tokens: int | None
    characters: int
    correct: bool


@dataclass(frozen=True)
class Bin:
    """Responses of similar length.

    Attributes:
        low, median, high: of their lengths.
        responses, questions: their number, and the number of different questions.
        accuracy, interval: the correct share, with its 95% interval.
    """

    low: float
    median: float
    high: float
    responses: int
    questions: int
    accuracy: float
    interval: tuple[float, float]


def counted(responses: Sequence[Measured]) -> bool:
    """Whether all lengths are known in tokens."""
    return all(response.tokens is not None for response in responses)


def accuracy_by_length(responses: Sequence[Measured], tokens: bool) -> list[Bin]:
    """Bins by quantile of the length, in tokens or in characters; equal lengths are never split over two bins."""
    length = np.array([r.tokens if tokens else r.characters for r in responses], dtype=float)
    question = np.array([r.question for r in responses])
    correct = np.array([r.correct for r in responses], dtype=float)
    if not length.size:
        return []
    bins = max(1, min(_BINS, length.size // _BIN_SIZE))
    # Each bin starts at a length that occurs, so none is empty. Enough responses that were cut at the limit get a bin
    # of their own.
    starts = np.unique(np.quantile(length, np.arange(bins) / bins, method="inverted_cdf"))
    index = np.searchsorted(starts, length, side="right") - 1
    return [_bin(length[index == i], question[index == i], correct[index == i]) for i in range(len(starts))]


def _bin(length: NDArray[Any], question: NDArray[Any], correct: NDArray[Any]) -> Bin:
    return Bin(
        float(length.min()),
        float(np.median(length)),
        float(length.max()),
        len(length),
        len(np.unique(question)),
        float(correct.mean()),
        clustered_interval(correct, question),
    )


def clustered_interval(correct: NDArray[Any], question: NDArray[Any]) -> tuple[float, float]:
    """95% interval of the share of correct responses, which depend on each other within a question.

    Wilson's at the number of independent responses that would give the same variance: that of a ratio, linearised, with
    questions as clusters. When all responses agree the variance is zero, and each question counts once.
    """
    share = float(correct.mean())
    _, cluster = np.unique(question, return_inverse=True)
    clusters = int(cluster.max()) + 1
    effective = float(clusters)
    if clusters > 1 and 0 < share < 1:
        residual = np.bincount(cluster, weights=correct - share)
        variance = clusters / (clusters - 1) * float(np.sum(residual**2)) / len(correct) ** 2
        # Question sums may agree by chance: at most as many independent responses as there are.
        effective = min(len(correct), share * (1 - share) / max(variance, 1e-12))
    low, high = wilson_ends(share, max(1.0, effective))
    return float(low), float(high)
