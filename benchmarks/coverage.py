"""Coverage of the evaluation's 95% intervals, by simulation: how often they contain the true value.

    python -m benchmarks.coverage [--repeats 20000] [--seed 0]

A question's probability of a correct sample is drawn from a Beta distribution of a given mean and concentration (a + b;
at 0.3 most questions are always or never solved, at 10 nearly all are equally hard). Its 8 samples are independent
given that probability, so overall they are correlated. A wrong sample gives one common wrong answer half of the time,
else one of five others. The true value is the expectation over difficulties. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from eval import estimators, question_values

N = 8
QUESTIONS = (30, 500)
MEANS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
CONCENTRATIONS = (0.3, 1, 3, 10)
# For the limit at which the note appears: more sizes, and means closer to 0 and 1.
SIZES = (15, 30, 40, 100, 500, 1000)
EXTREMES = (0.01, 0.02, *MEANS, 0.98, 0.99)
SCARCITY = (0, 1, 2, 3, 5, estimators.SCARCE, 10, 20, 500)
DISTANCES = (0, 0.05, estimators.MACRO_EDGE, 0.2, 0.5001)
DIFFER = (0, 1, 2, 3, 4, estimators.FEW_DIFFER, 10, 30, 500)
# Both AIMEs; AIME and MATH500; AIME24, AIME25, AMC23, MATH500 and OlympiadBench. MIXED: a 4B base model's scores there.
SETS = ((30, 30), (30, 500), (30, 30, 40, 500, 674))
MIXED = (0.1, 0.07, 0.43, 0.66, 0.35)
_OTHER_WRONG = [0.5] + [0.1] * 5

Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A question's possible values, (outcomes,), and their probabilities given c of N right, (N + 1, outcomes)."""

    name: str
    values: np.ndarray
    given: np.ndarray

    def chances(self, mean: float, concentration: float) -> np.ndarray:
        """Probability of each value: (outcomes,)."""
        a, b = mean * concentration, (1 - mean) * concentration
        return stats.betabinom.pmf(np.arange(N + 1), N, a, b) @ self.given


@dataclass(frozen=True)
class Drawn:
    """Means and sums of squared deviations, each (repeats,), of samples of `total` questions."""

    mean: np.ndarray
    squares: np.ndarray
    total: int

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(self.squares / (self.total - 1))

    @property
    def t(self) -> float:
        return float(stats.t.ppf(0.975, self.total - 1)) / self.total**0.5


def every_metric() -> list[Metric]:
    right = np.tril(np.ones((N + 1, N)), -1)  # row c: c right samples, then wrong ones
    passes = question_values.question_passes(right)
    known = np.eye(N + 1)
    return [
        Metric("Pass@1 (greedy)", np.array([0.0, 1.0]), np.stack([1 - passes[:, 0], passes[:, 0]], axis=1)),
        Metric(f"Avg@{N}", question_values.question_means(right), known),
        Metric("Pass@4", passes[:, 3], known),
        Metric(f"Pass@{N - 1}", passes[:, -2], known),
        Metric(f"Pass@{N}", np.array([0.0, 1.0]), np.stack([1 - passes[:, -1], passes[:, -1]], axis=1)),
        _majority(),
    ]


def _majority() -> Metric:
    """Maj@N, by enumerating how often each wrong answer can occur."""
    rows = []
    for c in range(N + 1):
        worth: dict[float, float] = {}
        for split in _splits(N - c, len(_OTHER_WRONG)):
            labels = [0] * c + [label for label, count in enumerate(split, start=1) for _ in range(count)]
            value = estimators.maj_at_n([labels], [[label == 0 for label in labels]])
            worth[value] = worth.get(value, 0) + stats.multinomial.pmf(split, N - c, _OTHER_WRONG)
        rows.append(worth)
    values = sorted(set().union(*rows))
    return Metric(f"Maj@{N}", np.array(values), np.array([[row.get(v, 0.0) for v in values] for row in rows]))


def _splits(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield all ways to write `total` as an ordered sum of `parts` numbers."""
    for bars in itertools.combinations(range(total + parts - 1), parts - 1):
        ends = (-1, *bars, total + parts - 1)
        yield tuple(b - a - 1 for a, b in itertools.pairwise(ends))


def plain_t(drawn: Drawn) -> Ends:
    reach = drawn.t * drawn.deviation
    return drawn.mean - reach, drawn.mean + reach


def logit_t(drawn: Drawn) -> Ends:
    """The t-interval on the log-odds; means of 0 and 1 are moved inwards by half a sample."""
    half = 0.5 / drawn.total / N
    mean = np.clip(drawn.mean, half, 1 - half)
    deviation = np.where(drawn.squares > 0, drawn.deviation, np.sqrt(mean * (1 - mean)))
    centre, reach = special.logit(mean), drawn.t * deviation / (mean * (1 - mean))
    low, high = special.expit(centre - reach), special.expit(centre + reach)
    return np.where(drawn.mean > 0, low, 0), np.where(drawn.mean < 1, high, 1)


def arcsine_t(drawn: Drawn) -> Ends:
    """The t-interval on the arcsine of the root, where a proportion's variance does not depend on its value."""
    root = 2 * np.sqrt(drawn.mean * (1 - drawn.mean))
    deviation = np.divide(drawn.deviation, root, out=np.full_like(root, 0.5), where=drawn.squares > 0)
    centre = np.arcsin(np.sqrt(drawn.mean))
    low, high = np.maximum(0, centre - drawn.t * deviation), np.minimum(np.pi / 2, centre + drawn.t * deviation)
    return np.sin(low) ** 2, np.sin(high) ** 2


def wilson_of_ratio(drawn: Drawn) -> Ends:
    """Wilson's interval with the number of questions divided by the plain ratio of variances."""
    largest = drawn.total * drawn.mean * (1 - drawn.mean)
    ratio = np.divide(drawn.squares, largest, out=np.ones_like(largest), where=drawn.squares > 0)
    return estimators.wilson_ends(drawn.mean, drawn.total / ratio)


def chosen(drawn: Drawn) -> Ends:
    """The interval of `eval/estimators.py`."""
    return estimators.wilson_ends(drawn.mean, estimators.effective_questions(drawn.mean, drawn.squares, drawn.total))


METHODS: dict[str, Callable[[Drawn], Ends]] = {
    "t": plain_t,
    "t on arcsine": arcsine_t,
    "t on log-odds": logit_t,
    "Wilson, plain effective number": wilson_of_ratio,
    "**Wilson, effective number: used**": chosen,
}


def draw(rng: np.random.Generator, metric: Metric, chances: np.ndarray, total: int, repeats: int) -> Drawn:
    """Draw `repeats` evaluations of `total` questions."""
    counts = rng.multinomial(total, chances / chances.sum(), size=repeats)
    mean = np.clip(counts @ metric.values / total, 0, 1)
    squares = (counts * (metric.values - mean[:, None]) ** 2).sum(axis=1)
    return Drawn(mean, np.where(squares > 1e-12, squares, 0), total)


def held(ends: Ends, true: float) -> float:
    """Return the share of intervals that contain `true`."""
    return float(np.mean((ends[0] <= true + 1e-12) & (true <= ends[1] + 1e-12)))


def cells(
    rng: np.random.Generator,
    metric: Metric,
    methods: Sequence[Callable[[Drawn], Ends]],
    total: int,
    means: Sequence[float],
    repeats: int,
) -> Iterator[tuple[float, list[float]]]:
    """Yield (true value, coverage by method) for each concentration and mean."""
    for concentration in CONCENTRATIONS:
        for mean in means:
            chances = metric.chances(mean, concentration)
            drawn = draw(rng, metric, chances, total, repeats)
            true = float(chances @ metric.values)
            yield true, [held(method(drawn), true) for method in methods]


def paired_cells(rng: np.random.Generator, total: int, repeats: int) -> Iterator[tuple[str, float, float]]:
    """Yield (metric, mean number of differing questions, coverage of the paired t-interval).

    The second checkpoint's log-odds of a right sample are the first's plus a shift and per-question noise.
    """
    pairs = [("Pass@1", 1, False), (f"Avg@{N}", N, False), (f"Pass@{N}", N, True)]
    scenarios = itertools.product(pairs, (0.05, 0.2, 0.5, 0.8, 0.95), (0.5, 3), ((0.0, 0.2), (0.5, 0.5)))
    for (name, n, any_right), mean, concentration, (shift, noise) in scenarios:
        a, b = mean * concentration, (1 - mean) * concentration

        def chance_right(shape: tuple[int, ...], a=a, b=b, shift=shift, noise=noise) -> Ends:
            before = np.clip(rng.beta(a, b, shape), 1e-9, 1 - 1e-9)
            return before, special.expit(special.logit(before) + shift + noise * rng.normal(size=shape))

        before, after = chance_right((500_000,))
        true = float(np.mean((1 - before) ** n - (1 - after) ** n if any_right else after - before))
        first, second = (rng.binomial(n, chance) for chance in chance_right((repeats, total)))
        gains = (second > 0) * 1.0 - (first > 0) if any_right else (second - first) / n
        mean_gain = gains.mean(axis=1)
        drawn = Drawn(mean_gain, ((gains - mean_gain[:, None]) ** 2).sum(axis=1), total)
        yield name, float(np.count_nonzero(gains, axis=1).mean()), held(plain_t(drawn), true)


def macro_cells(
    rng: np.random.Generator, every: Sequence[Metric], sizes: Sequence[int], repeats: int
) -> Iterator[tuple[float, float]]:
    """Yield (distance of the true macro-average from 0 or 1, coverage of its interval) for benchmarks of `sizes`."""
    same = [(mean,) * len(sizes) for mean in EXTREMES]
    mixes = [MIXED[-len(sizes) :], tuple(1 - mean for mean in MIXED[-len(sizes) :])]
    for metric, means, concentration in itertools.product(every, same + mixes, CONCENTRATIONS):
        true, centre, below, above = 0.0, 0.0, 0.0, 0.0
        for mean, total in zip(means, sizes, strict=True):
            chances = metric.chances(mean, concentration)
            drawn = draw(rng, metric, chances, total, repeats)
            low, high = chosen(drawn)
            true, centre = true + float(chances @ metric.values), centre + drawn.mean
            below, above = below + (drawn.mean - low) ** 2, above + (high - drawn.mean) ** 2
        share = true / len(sizes)
        yield min(share, 1 - share), held((centre - np.sqrt(below), centre + np.sqrt(above)), true)


def row(*parts: object) -> None:
    print("|", " | ".join(map(str, parts)), "|")


def head(*parts: object) -> None:
    print()
    row(*parts)
    print("|" + "---|" * len(parts))


def spread(found: Sequence[float]) -> tuple[str, str, str]:
    """Return the lowest and highest coverage in percent, and how many lie within 93-97%."""
    within = sum(estimators.COVERAGE[0] <= coverage <= estimators.COVERAGE[1] for coverage in found)
    return f"{100 * min(found):.1f}", f"{100 * max(found):.1f}", f"{within} of {len(found)}"


def by_bin(bins: Sequence[float], found: Sequence[tuple[float, float]]) -> Iterator[tuple[str, list[float]]]:
    """Group the (place, coverage) pairs by bin; yield each bin's label and coverages."""
    for low, high in itertools.pairwise(bins):
        chosen_ones = [coverage for place, coverage in found if low <= place < high]
        if chosen_ones:
            yield f"{low} to {high}" if high != bins[-1] else f"{low} and more", chosen_ones


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the coverage of the evaluation's intervals.")
    parser.add_argument("--repeats", type=int, default=20_000, help="simulated evaluations in each cell")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, repeats, every = np.random.default_rng(options.seed), options.repeats, every_metric()

    measured = {
        (total, metric.name): list(cells(rng, metric, list(METHODS.values()), total, MEANS, repeats))
        for total in QUESTIONS
        for metric in every
    }
    print(f"Lowest - highest coverage of {len(MEANS) * len(CONCENTRATIONS)} cells in percent (cells within 93-97)")
    head("questions", "metric", *METHODS)
    for (total, name), found in measured.items():
        spreads = [spread([coverage[place] for _, coverage in found]) for place in range(len(METHODS))]
        row(total, name, *(f"{low} - {high} ({within.split()[0]})" for low, high, within in spreads))

    head("questions", "metric", "concentration", *(f"mean {mean}" for mean in MEANS))
    for (total, name), found in measured.items():
        for start, concentration in zip(range(0, len(found), len(MEANS)), CONCENTRATIONS, strict=True):
            used = [f"{100 * coverage[-1]:.1f}" for _, coverage in found[start : start + len(MEANS)]]
            row(total, name, concentration, *used)

    head("metric", "questions' worth of right or wrong answers, the fewer", "lowest", "highest", "within 93-97")
    for metric in every:
        if metric.values.size == 2:
            continue  # Wilson's interval itself: its note is computed
        found = [
            (total * min(true, 1 - true), coverage[0])
            for total in SIZES
            for true, coverage in cells(rng, metric, [chosen], total, EXTREMES, repeats)
        ]
        for label, coverage in by_bin(SCARCITY, found):
            row(metric.name, label, *spread(coverage))

    head("paired t: questions that differ, on average", "lowest", "highest", "within 93-97")
    paired = [
        (differ, held) for total in QUESTIONS for _, differ, held in paired_cells(rng, total, repeats * 30 // total)
    ]
    for label, coverage in by_bin(DIFFER, paired):
        row(label, *spread(coverage))

    head("macro-average of benchmarks of", "distance from 0 or 1", "lowest", "highest", "within 93-97")
    for sizes in SETS:
        for label, coverage in by_bin(DISTANCES, list(macro_cells(rng, every, sizes, repeats // 4))):
            row(", ".join(map(str, sizes)), label, *spread(coverage))


if __name__ == "__main__":
    main()
