"""How many samples a question a paired difference of Avg@n needs, and which difference n samples show. Pure.

The test is that of `eval.compare`: the 95% interval of the difference excludes 0. For one benchmark it is the paired
t-interval over questions; for the average of several, the combination of theirs (`estimators.macro_average`). Its power
is that of a noncentral t distribution, with Satterthwaite's degrees of freedom. The questions count as drawn from a
larger set, as for every interval here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from eval.variances import Variances

LEVEL = 0.05
_CERTAIN = 37  # standard errors beyond which power is 1 (0.996 for two questions), and scipy's noncentral t may be nan


def variance_parts(benchmarks: Sequence[Variances]) -> tuple[float, float]:
    """(within, between) of the average's difference: its variance is within / n + between."""
    shares = np.array([(own.within / own.questions, own.between / own.questions) for own in benchmarks])
    within, between = shares.sum(axis=0) / len(benchmarks) ** 2
    return float(within), float(between)


def power(benchmarks: Sequence[Variances], n: float, difference: float) -> float:
    """The chance that a true difference (a fraction, above 0) is found with n samples a question; n may be infinite."""
    test = _Test(benchmarks, n)
    return test.power(difference / test.error) if test.error else 1.0


def detectable(benchmarks: Sequence[Variances], n: float, chance: float) -> float:
    """The difference that n samples a question (infinitely many, with `math.inf`) find with this chance."""
    test = _Test(benchmarks, n)
    if not test.error:
        return 0.0
    most = 1.0
    while test.power(most) < chance:
        most *= 2
    return test.error * float(optimize.brentq(lambda ratio: test.power(ratio) - chance, 0, most))


def samples_needed(benchmarks: Sequence[Variances], difference: float, chance: float) -> int | None:
    """The fewest samples a question that find `difference` with this chance; None when no number does."""
    if power(benchmarks, math.inf, difference) <= chance:
        return None
    few, many = 0, 1
    while power(benchmarks, many, difference) < chance:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if power(benchmarks, middle, difference) < chance else (few, middle)
    return many


class _Test:
    """The test at n samples a question.

    Attributes:
        error: the standard error of the difference.
    """

    def __init__(self, benchmarks: Sequence[Variances], n: float) -> None:
        own = np.array([(b.within / n + b.between) / b.questions for b in benchmarks])
        freedom = np.array([b.questions - 1 for b in benchmarks])
        self.error = math.sqrt(own.sum()) / len(benchmarks)
        if self.error:
            own /= own.sum()
            # The interval's reach in standard errors.
            self._reach = math.sqrt(own @ stats.t.ppf(1 - LEVEL / 2, freedom) ** 2)
            self._freedom = 1 / float((own**2 / freedom).sum())

    def power(self, ratio: float) -> float:
        """Power for a true difference of `ratio` standard errors; an interval on the wrong side of 0 finds nothing."""
        if ratio > _CERTAIN:
            return 1.0
        return float(stats.nct.sf(self._reach, self._freedom, ratio))
