"""The two parts of the variance of a question's difference between two models: of its samples, and between questions. Pure.

With n samples a question, question q's difference of Avg@n has the variance `within / n` about its true difference (the
samples are independent given the question), and the true differences vary over questions by `between`, which no number
of samples reduces. This is the decomposition of Miller 2024 (arXiv 2411.00640, power analysis).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from eval.question_values import question_means


@dataclass(frozen=True)
class Variances:
    """Of a question's difference, fractions squared.

    Attributes:
        questions: their number.
        within: of one sample of each model, mean over questions: p (1 - p) of the one plus that of the other.
        between: of the true difference, over questions. An estimate can be below 0 (`not_negative`).
    """

    questions: int
    within: float
    between: float

    @classmethod
    def of_two(cls, correct: ArrayLike, baseline: ArrayLike) -> Variances:
        """From two models' samples on the same questions, (questions, n) and (questions, m). Both parts are unbiased.

        Raises:
            ValueError: fewer than 2 questions or samples, or different numbers of questions.
        """
        ours, theirs = question_means(correct), question_means(baseline)
        if len(ours) != len(theirs):
            raise ValueError(f"variances: found {len(ours)} and {len(theirs)} questions, expected the same ones")
        noise = [sampling_variance(correct), sampling_variance(baseline)]
        of_means = noise[0] / np.shape(correct)[1] + noise[1] / np.shape(baseline)[1]
        return cls(len(ours), sum(noise), float((ours - theirs).var(ddof=1)) - of_means)

    @classmethod
    def of_one(cls, correct: ArrayLike, correlation: float) -> Variances:
        """From one model's samples, (questions, n), and an assumption about the other model.

        The other's true accuracies vary over questions as this one's do, and the two have this correlation, so that the
        differences vary by 2 (1 - correlation) times as much; its samples vary as this one's.

        Raises:
            ValueError: fewer than 2 questions or samples.
        """
        means, noise = question_means(correct), sampling_variance(correct)
        spread = float(means.var(ddof=1)) - noise / np.shape(correct)[1]
        return cls(len(means), 2 * noise, 2 * (1 - correlation) * spread)


def not_negative(benchmarks: Sequence[Variances]) -> list[Variances]:
    """The same with no `between` below 0, and the same variance of the average, unless that was below 0.

    A benchmark's estimate below 0 becomes 0, and the others are reduced in proportion: cutting each at 0 by itself would
    make the average's variance too large.
    """
    shares = [own.between / own.questions for own in benchmarks]
    positive = sum(max(0.0, share) for share in shares)
    kept = max(0.0, sum(shares)) / positive if positive else 0.0
    return [replace(own, between=max(0.0, own.between) * kept) for own in benchmarks]


def sampling_variance(correct: ArrayLike) -> float:
    """The mean over questions of p (1 - p), unbiased: from the samples' shares, times n / (n - 1).

    Args:
        correct: (questions, n), 1 where a sample is right.

    Raises:
        ValueError: fewer than 2 questions or samples.
    """
    means = question_means(correct)
    n = np.shape(correct)[1]
    if len(means) < 2 or n < 2:
        raise ValueError(f"variances: found {len(means)} questions with {n} samples, expected at least 2 of both")
    return float((means * (1 - means)).mean() * n / (n - 1))
