"""The value of each question from its samples: their mean, Pass@k, Pass^k, whether the most frequent answer is right. Pure.

Everything starts from a matrix `correct` of shape (questions, n): 1 where that sample of that question was right, else 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def question_means(correct: ArrayLike) -> Floats:
    """Share of correct samples of each question, (questions,)."""
    means: Floats = _matrix(correct).mean(axis=1)
    return means


def question_passes(correct: ArrayLike) -> Floats:
    """The probability that k samples, drawn without replacement, include a correct one: (questions, n), column k - 1.

    Unbiased: `1 - C(n - c, k) / C(n, k)` with c correct of n (Chen et al. 2021, arXiv 2107.03374, Eq. 1). It is
    computed as a product of the probabilities that each draw is incorrect, so that no binomial coefficient overflows.
    """
    matrix = _matrix(correct)
    n = matrix.shape[1]
    wrong = n - matrix.sum(axis=1, keepdims=True)
    drawn = np.arange(n)
    return 1 - np.cumprod(np.maximum(wrong - drawn, 0) / (n - drawn), axis=1)


def question_alls(correct: ArrayLike) -> Floats:
    """Pass^k: the probability that k samples, drawn without replacement, are all correct: (questions, n), column k - 1.

    Unbiased: `C(c, k) / C(n, k)` with c correct of n, computed as a product like `question_passes`.
    """
    matrix = _matrix(correct)
    n = matrix.shape[1]
    right = matrix.sum(axis=1, keepdims=True)
    drawn = np.arange(n)
    return np.cumprod(np.maximum(right - drawn, 0) / (n - drawn), axis=1)


def question_majorities(labels: Sequence[Sequence[Hashable | None]], correct: ArrayLike) -> Floats:
    """Correctness of each question's most frequent answer, (questions,).

    When several answers are the most frequent, the value is the expectation over a uniform choice of one. No answer
    (None) never wins; a question whose samples all lack an answer counts 0. Samples with the same label should agree in
    correctness; when they do not (one of them timed out in grading), the answer counts as their mean.

    Args:
        labels: for each question its n samples' groups; answers that are equal have the same label.
        correct: (questions, n), in the same order.

    Raises:
        ValueError: the shapes differ.
    """
    matrix = _matrix(correct)
    if len(labels) != len(matrix) or any(len(row) != matrix.shape[1] for row in labels):
        lengths = sorted({len(row) for row in labels})
        raise ValueError(
            f"Maj@n: found labels of {len(labels)} questions with {lengths} samples, expected {matrix.shape}"
        )
    return np.array([_majority(row, rights) for row, rights in zip(labels, matrix, strict=True)])


def _majority(labels: Sequence[Hashable | None], correct: Floats) -> float:
    counts = Counter(label for label in labels if label is not None)
    most = max(counts.values(), default=0)
    tied = [label for label, count in counts.items() if count == most]
    groups = [[right for own, right in zip(labels, correct, strict=True) if own == label] for label in tied]
    return float(np.mean([np.mean(group) for group in groups])) if groups else 0.0


def _matrix(correct: ArrayLike) -> Floats:
    matrix = np.asarray(correct, dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"correctness: found the shape {matrix.shape}, expected (questions, n), both at least 1")
    if not np.isin(matrix, (0.0, 1.0)).all():
        raise ValueError("correctness: found values other than 0 and 1; expected 1 for a right sample, else 0")
    return matrix
