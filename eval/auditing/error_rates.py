"""The verifier's error rates from a random sample of each class, with 95% intervals. Pure.

An interval's lower end is the lower of two, its upper end likewise for the responses that are no errors:

- MOVER (Zou and Donner 2008) of the classes' limits by Clopper and Pearson. It holds where no error is found, but is
  too high where several classes have one or two.
- The gamma limit of Fay and Feuer (1997) for a weighted sum of counts, with the counts' binomial variance. It holds
  there, but not where every judged response of a class is an error.

Classes are taken as infinite, which lengthens the intervals, except that one that is judged whole has no uncertainty:
with exact limits for a sample without replacement, MOVER covers far less than 95% when classes are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from eval.estimators import Estimate

_TAIL = 0.025  # of each end of an interval
METHOD = "classes combined (MOVER, gamma)"


@dataclass(frozen=True)
class ClassCount:
    """What was found in a class.

    Attributes:
        responses: all in the class.
        judged: those in its random sample that a person has judged.
        errors, unsure: of the judged ones, those that the verifier misjudged, and those that the person could not judge.

    Raises:
        ValueError: more judged than there are, or more found than judged.
    """

    responses: int
    judged: int
    errors: int
    unsure: int = 0

    def __post_init__(self) -> None:
        least = min(self.errors, self.unsure)
        if not 0 <= self.errors + self.unsure <= self.judged <= self.responses or least < 0 or not self.responses:
            raise ValueError(f"{self}: expected 0 <= errors + unsure <= judged <= responses, and a response")

    @property
    def reversed(self) -> ClassCount:
        """The same class, with what is no error counted."""
        return ClassCount(self.responses, self.judged, self.judged - self.errors - self.unsure, self.unsure)


def error_rate(counts: Sequence[ClassCount]) -> Estimate | None:
    """The share of misjudged responses among those of all `counts`.

    None without a class, and as long as one of them has no judged response: nothing is known about it. A response that
    the person could not judge is half an error in the value, none for the lower end, and a whole one for the upper end.
    """
    if not counts or not all(count.judged for count in counts):
        return None
    total = sum(count.responses for count in counts)
    value = sum(count.responses * (count.errors + count.unsure / 2) / count.judged for count in counts) / total
    low, high = _least(counts) / total, 1 - _least([count.reversed for count in counts]) / total
    return Estimate(value, (min(low, value), max(high, value)), method=METHOD)


def accuracy_change(accepted: Sequence[ClassCount], rejected: Sequence[ClassCount]) -> Estimate | None:
    """True minus measured accuracy over all responses, a fraction; None as for `error_rate`.

    The truly right responses are the errors among the rejected ones and what is no error among the accepted ones.
    """
    right = error_rate([*(count.reversed for count in accepted), *rejected])
    if right is None:
        return None
    responses = {True: sum(c.responses for c in accepted), False: sum(c.responses for c in rejected)}
    measured = responses[True] / sum(responses.values())
    low, high = right.interval
    return Estimate(right.value - measured, (low - measured, high - measured), method=METHOD)


def _least(counts: Sequence[ClassCount]) -> float:
    """The lower limit of the number of errors; `unsure` ones are none."""
    sampled = [count for count in counts if count.judged < count.responses]
    certain = sum(count.errors for count in counts) - sum(count.errors for count in sampled)
    if not any(count.errors for count in sampled):
        return float(certain)
    sizes = np.array([count.responses for count in sampled])
    shares = np.array([count.errors / count.judged for count in sampled])
    lows = np.array([_clopper_pearson(count.errors, count.judged) for count in sampled])
    number = float(sizes @ shares)
    variance = float((sizes**2 * shares * (1 - shares) / [count.judged for count in sampled]).sum())
    mover = number - float(np.linalg.norm(sizes * (shares - lows)))
    gamma = stats.gamma.ppf(_TAIL, number**2 / variance, scale=variance / number) if variance else number
    return certain + max(0.0, min(mover, float(gamma)))


@lru_cache(maxsize=4096)
def _clopper_pearson(found: int, judged: int) -> float:
    """The lower limit of a share of which `found` of `judged` were seen (Clopper and Pearson 1934)."""
    return float(stats.beta.ppf(_TAIL, found, judged - found + 1)) if found else 0.0
