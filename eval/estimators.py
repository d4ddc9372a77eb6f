"""Statistics of sampled correctness: Avg@n, Pass@k, Maj@n, their intervals, and paired differences. Pure.

A metric is the mean of one value per question (`question_values`). The question is the unit of every interval, because
samples of one question are not independent of each other.

Measured coverage (`benchmarks/coverage.py`) decides which interval is used, and when a note is added.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from eval.question_values import Floats, question_majorities, question_means, question_passes

Interval = tuple[float, float]

WILSON = "Wilson"
WILSON_EFFECTIVE = "Wilson, effective number of questions"
PAIRED_T = "paired t"
COMBINED = "combined from the benchmarks' intervals (MOVER)"

# Intervals claim 95%; outside of these bounds a note is added.
COVERAGE = (0.93, 0.97)
# Measured: coverage leaves 93-97% only when the expected correct (or incorrect) answers are worth fewer questions.
SCARCE = 7
# Measured: the paired t-interval is too short when fewer questions differ.
FEW_DIFFER = 5
# Measured: a macro-average's interval is wrong when the average is nearer to 0 or 1.
MACRO_EDGE = 0.1
# How strongly the effective number of questions is drawn to the real one; the smallest of 0, 0.05, ... 0.5 with which
# Avg@8, Pass@2 and Pass@4 of 30 and of 500 questions, mean 0.05 to 0.95, are all covered at least 93%.
_LEAN = 0.2
# Sign flips beyond which p-values are estimated: 13 differing questions are still enumerated (2^13 = 8,192).
_FLIPS = 9_999


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval.

    Attributes:
        se: standard error over questions; None for a single question, which shows no spread.
        method: how the interval was made.
        note: one sentence where the interval's coverage is known to be outside 93-97%.
    """

    value: float
    interval: Interval
    se: float | None = None
    method: str = ""
    note: str | None = None


def avg_at_n(correct: ArrayLike) -> float:
    """Avg@n: the mean over questions of the share of correct samples. With one greedy sample per question: Pass@1."""
    return float(question_means(correct).mean())


def pass_at_ks(correct: ArrayLike) -> Floats:
    """Unbiased Pass@k for every k, (n,), Pass@1 first."""
    passes: Floats = question_passes(correct).mean(axis=0)
    return passes


def pass_at_k(correct: ArrayLike, k: int) -> float:
    """Unbiased Pass@k: the mean of `question_passes` over questions.

    Raises:
        ValueError: k is below 1 or above n.
    """
    passes = pass_at_ks(correct)
    if not 1 <= k <= len(passes):
        raise ValueError(f"Pass@k: found k = {k} with n = {len(passes)} samples a question; expected 1 <= k <= n")
    return float(passes[k - 1])


def maj_at_n(labels: Sequence[Sequence[Hashable | None]], correct: ArrayLike) -> float:
    """Maj@n: the mean of `question_majorities` over questions."""
    return float(question_majorities(labels, correct).mean())


def estimate(values: ArrayLike) -> Estimate:
    """The mean of one value per question, with standard error and 95% interval: any metric of this module.

    The interval is Wilson's at the effective number of questions (`effective_questions`). When all values are 0 or 1,
    as with one greedy sample per question and with Pass@n of n samples, that is Wilson's interval itself.

    Args:
        values: (questions,), each from 0 to 1.

    Raises:
        ValueError: no values, or values outside that range.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or not sample.size or not ((sample >= 0) & (sample <= 1)).all():
        raise ValueError(
            f"estimate: found values of shape {sample.shape}, expected one from 0 to 1 for each of at least 1 question"
        )
    n, mean = sample.size, float(sample.mean())
    method = WILSON if np.isin(sample, (0.0, 1.0)).all() else WILSON_EFFECTIVE
    low, high = wilson_ends(mean, effective_questions(mean, float(((sample - mean) ** 2).sum()), n))
    interval = float(low), float(high)
    return Estimate(mean, interval, standard_error(sample), method, coverage_note(method, n, mean, interval))


def standard_error(values: ArrayLike) -> float | None:
    """Standard error of the mean of independent values, (questions,); None for a single value."""
    sample = np.asarray(values, dtype=float)
    return float(sample.std(ddof=1) / np.sqrt(sample.size)) if sample.size > 1 else None


def effective_questions(mean: ArrayLike, squares: ArrayLike, n_questions: int) -> Floats:
    """How many questions of one sample each would give a mean of the same variance; at least `n_questions`.

    That is `n_questions` divided by the ratio of the observed sum of squares to the largest possible one, n * mean *
    (1 - mean), which questions of one sample each have. When correct or incorrect answers are scarce the observed ratio
    is unreliable, so it is drawn towards 1: both sums are increased by `_LEAN`.

    Args:
        mean, squares: of the questions' values, and the sum of their squared deviations; any shape.
    """
    if n_questions == 1:
        return np.ones_like(np.asarray(mean, dtype=float))
    largest = n_questions * np.asarray(mean) * (1 - np.asarray(mean))
    effective: Floats = n_questions * (largest + _LEAN) / (np.minimum(squares, largest) + _LEAN)
    return effective


def wilson_ends(share: ArrayLike, total: ArrayLike) -> tuple[Floats, Floats]:
    """Ends of Wilson's 95% score interval (Wilson 1927) of a share of `total`; any shape, any total above 0."""
    z = stats.norm.ppf(0.975)
    share, total = np.asarray(share, dtype=float), np.asarray(total, dtype=float)
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # Rounding must not push the ends past the share itself, nor out of [0, 1], at shares of 0 and 1.
    return np.maximum(0, np.minimum(share, centre - reach)), np.minimum(1, np.maximum(share, centre + reach))


def wilson_interval(right: int, total: int) -> Interval:
    """Wilson's 95% interval of `right` out of `total`.

    Raises:
        ValueError: no question, or more right than there are.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(
            f"Wilson interval: found {right} right of {total}, expected 0 <= right <= total and total >= 1"
        )
    low, high = wilson_ends(right / total, total)
    return float(low), float(high)


def wilson_coverage(shares: ArrayLike, total: int) -> Floats:
    """The exact chance that the 95% Wilson interval of `total` questions holds a true share, for each of `shares`."""
    right = np.arange(total + 1)
    low, high = wilson_ends(right / total, total)
    true = np.asarray(shares, dtype=float)[:, None]
    coverage: Floats = (stats.binom.pmf(right, total, true) * ((low <= true) & (true <= high))).sum(axis=1)
    return coverage


def coverage_note(method: str, n_questions: int, value: float, interval: Interval) -> str | None:
    """The note for an interval whose coverage is outside 93-97%, else None.

    The coverage of Wilson's interval is computed exactly, for true shares across the interval. With the effective
    number
    of questions it was measured: it leaves 93-97% only when the expected correct, or incorrect, answers are worth fewer
    than `SCARCE` questions.
    """
    if method == WILSON:
        low, high = interval
        coverage = wilson_coverage(low + (high - low) * (np.arange(100) + 0.5) / 100, n_questions)
        if coverage.min() < COVERAGE[0] or coverage.max() > COVERAGE[1]:
            between = f"{coverage.min():.1%} and {coverage.max():.1%}"
            return f"with {_questions(n_questions)} this interval's true coverage is between {between}, not 95%"
    elif n_questions * min(value, 1 - value) < SCARCE:
        rare = "right" if value <= 0.5 else "wrong"
        return (
            f"too few {rare} answers for an exact 95% (less than {SCARCE} questions' worth): "
            "the true coverage may be outside 93-97%"
        )
    return None


def mean_interval(values: ArrayLike) -> Interval:
    """Student's 95% t-interval of the mean of independent values, (questions,).

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size < 2:
        raise ValueError(f"interval of a mean: found values of shape {sample.shape}, expected at least 2 in one row")
    reach = stats.t.ppf(0.975, sample.size - 1) * sample.std(ddof=1) / np.sqrt(sample.size)
    return float(sample.mean() - reach), float(sample.mean() + reach)


def avg_estimate(correct: ArrayLike) -> Estimate:
    """Avg@n with its interval."""
    return estimate(question_means(correct))


def gains_estimate(gains: ArrayLike) -> Estimate:
    """The mean of the questions' gains of one checkpoint over another, (questions,), with the t-interval, cut to [-1, 1].

    A single question bounds nothing: its interval is [-1, 1].

    Raises:
        ValueError: no question.
    """
    sample = np.asarray(gains, dtype=float)
    if sample.shape == (1,):
        return Estimate(float(sample[0]), (-1.0, 1.0), None, PAIRED_T)
    low, high = mean_interval(sample)
    # Only gains that differ from the most frequent gain (usually 0) show a spread.
    differ = sample.size - int(np.unique(sample, return_counts=True)[1].max())
    note = None
    if differ < FEW_DIFFER:
        note = f"the gains of only {_questions(differ)} differ from the rest; the true coverage may be below 93%"
    return Estimate(float(sample.mean()), (max(-1.0, low), min(1.0, high)), standard_error(sample), PAIRED_T, note)


def paired_difference(correct: ArrayLike, baseline: ArrayLike) -> Estimate:
    """Avg@n of one checkpoint minus that of another on the same questions.

    Args:
        correct, baseline: (questions, n) and (questions, m), rows in the same order.

    Raises:
        ValueError: the numbers of questions differ.
    """
    ours, theirs = question_means(correct), question_means(baseline)
    if len(ours) != len(theirs):
        raise ValueError(f"paired difference: found {len(ours)} and {len(theirs)} questions, expected the same ones")
    return gains_estimate(ours - theirs)


def sign_flip_p_value(gains: ArrayLike) -> float:
    """Two-sided p-value of "neither is better", from flipping the signs of the questions' gains, (questions,).

    Exact up to 13 gains other than 0, then from 9,999 random flips of fixed seed (smallest value 0.0002).
    """
    # A gain of 0 has no sign, so leaving it out changes nothing, and more can be enumerated.
    sample = np.asarray(gains, dtype=float)
    sample = sample[sample != 0]
    if sample.size < 2:
        return 1.0
    test = stats.permutation_test(
        (sample,), np.sum, permutation_type="samples", n_resamples=_FLIPS, vectorized=True, batch=500, rng=0
    )
    return float(test.pvalue)


def macro_average(parts: Sequence[Estimate]) -> Estimate:
    """The plain mean of independent estimates, one per benchmark: of values, or of differences.

    The interval combines theirs (MOVER, Zou and Donner 2008): the distance of each end from the mean is the root of the
    sum of the squared distances of the parts' ends, over their number. So it keeps their asymmetry near 0 and 1.

    Raises:
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("macro-average: found no benchmark, expected at least 1")
    values = np.array([part.value for part in parts])
    below, above = np.abs(np.array([part.interval for part in parts]).T - values)
    mean, errors = float(values.mean()), [part.se for part in parts if part.se is not None]
    se = float(np.linalg.norm(errors) / len(parts)) if len(errors) == len(parts) else None
    ends = mean - np.linalg.norm(below) / len(parts), mean + np.linalg.norm(above) / len(parts)
    note = None
    if all(part.method == PAIRED_T for part in parts):
        if noted := sum(part.note is not None for part in parts):
            note = f"made from {noted} of {len(parts)} intervals that are too short: its true coverage may be below 93%"
    elif min(mean, 1 - mean) < MACRO_EDGE:
        note = f"within {MACRO_EDGE} of 0 or 1: the true coverage may be outside 93-97%"
    return Estimate(mean, (float(ends[0]), float(ends[1])), se, COMBINED, note)


def _questions(count: int) -> str:
    return f"{count} question{'' if count == 1 else 's'}"
