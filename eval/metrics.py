"""Statistics of sampled correctness: Avg@n, Pass@k, intervals, and the paired difference of two checkpoints.

Everything starts from a matrix `correct` of shape (questions, n): 1 where that sample of that question was right, else
0. The question is the unit of every interval: samples of one question are not independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    interval: Interval


def question_means(correct: ArrayLike) -> NDArray[np.float64]:
    """Share of right samples of each question, (questions,)."""
    return _matrix(correct).mean(axis=1)


def avg_at_n(correct: ArrayLike) -> float:
    """Avg@n: the mean over questions of the share of right samples."""
    return float(question_means(correct).mean())


def pass_at_k(correct: ArrayLike, k: int) -> float:
    """Pass@k: the mean over questions of the chance that k samples drawn without replacement hold a right one.

    Unbiased, `1 - C(n - c, k) / C(n, k)` with c right ones of n (Chen et al. 2021, arXiv 2107.03374, Eq. 1).

    Raises:
        ValueError: k is below 1 or above n.
    """
    matrix = _matrix(correct)
    n = matrix.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"Pass@k: found k = {k} with n = {n} samples a question; expected 1 <= k <= n")
    wrong = n - matrix.sum(axis=1)
    return float(np.mean(1 - special.comb(wrong, k) / special.comb(n, k)))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t-interval of the mean of independent values, (questions,).

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size < 2:
        raise ValueError(f"interval of a mean: found values of shape {sample.shape}, expected at least 2 in one row")
    reach = stats.t.ppf((1 + confidence) / 2, sample.size - 1) * sample.std(ddof=1) / np.sqrt(sample.size)
    return float(sample.mean() - reach), float(sample.mean() + reach)


def avg_estimate(correct: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Avg@n with the t-interval over question means, cut to [0, 1]."""
    low, high = mean_interval(question_means(correct), confidence)
    return Estimate(avg_at_n(correct), (max(0.0, low), min(1.0, high)))


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share, for one (greedy) sample a question (Wilson 1927).

    Raises:
        ValueError: no question, or more right than there are.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(
            f"Wilson interval: found {right} right of {total}, expected 0 <= right <= total and total >= 1"
        )
    z = stats.norm.ppf((1 + confidence) / 2)
    share = right / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # Rounding must not push the ends past the share itself at 0 and at `total` right.
    return min(share, float(centre - reach)), max(share, float(centre + reach))


def paired_difference(correct: ArrayLike, baseline: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Avg@n of one checkpoint minus that of another on the same questions, with the t-interval over questions.

    Args:
        correct, baseline: (questions, n) and (questions, m), rows in the same order.

    Raises:
        ValueError: the numbers of questions differ.
    """
    ours, theirs = question_means(correct), question_means(baseline)
    if len(ours) != len(theirs):
        raise ValueError(f"paired difference: found {len(ours)} and {len(theirs)} questions, expected the same ones")
    gains = ours - theirs
    return Estimate(float(gains.mean()), mean_interval(gains, confidence))


def _matrix(correct: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(correct, dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"correctness: found the shape {matrix.shape}, expected (questions, n), both at least 1")
    if not np.isin(matrix, (0.0, 1.0)).all():
        raise ValueError("correctness: found values other than 0 and 1; expected 1 for a right sample, else 0")
    return matrix
