"""Whether `eval.power` keeps its promise: power of the n that it names, and how much that n depends on the pilot.

    python -m benchmarks.power [--repeats 2000] [--pilots 300] [--pilot-n 8] [--seed 0]

A question's chance of a right sample comes from a Beta distribution (mean, a + b = 1: most questions are easy or hard).
The other model's chance differs from it by a shift and by normal noise, which spreads the true differences over
questions: both added to the chance itself, cut to 0 and 1, or to its log-odds, so that questions of middle difficulty
change most. Each simulated evaluation draws its questions anew. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from benchmarks.coverage import head, row
from eval.sample_size import power, samples_needed
from eval.variances import Variances, not_negative

# AIME24, AIME25, AMC23, MATH500, OlympiadBench, and a 4B base model's scores there.
PAPER = (30, 30, 40, 500, 674)
MEANS = (0.1, 0.07, 0.43, 0.66, 0.35)


@dataclass(frozen=True)
class Scenario:
    """Benchmarks by size and mean, the true difference, and the noise of it: on the chances, or on their log-odds."""

    sizes: tuple[int, ...]
    means: tuple[float, ...]
    difference: float
    noise: float
    log_odds: bool = False


SCENARIOS = (
    Scenario(PAPER, MEANS, 0.01, 0.0),
    Scenario(PAPER, MEANS, 0.02, 0.05),
    Scenario(PAPER, MEANS, 0.03, 0.1),
    Scenario((30,), (0.4,), 0.05, 0.0),
    Scenario((30, 30), (0.3, 0.6), 0.08, 0.1),
    Scenario((40, 500), (0.5, 0.8), 0.03, 0.05),
    Scenario((500,), (0.65,), 0.02, 0.1),
    Scenario(PAPER, MEANS, 0.01, 0.0, log_odds=True),
    Scenario(PAPER, MEANS, 0.02, 0.3, log_odds=True),
    Scenario((40, 500), (0.5, 0.8), 0.03, 0.2, log_odds=True),
)


@dataclass(frozen=True)
class Population:
    """Many questions of which a benchmark's `size` are drawn: two models' chances of a right sample, (questions,) each."""

    size: int
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def variances(self) -> Variances:
        within = sum(float(np.mean(p * (1 - p))) for p in (self.ours, self.theirs))
        return Variances(self.size, within, float(np.var(self.ours - self.theirs)))

    def gains(self, rng: np.random.Generator, n: int, repeats: int) -> np.ndarray:
        """Differences in Avg@n, (repeats, size); the questions are drawn anew for each evaluation."""
        chosen = rng.integers(len(self.ours), size=(repeats, self.size))
        return (rng.binomial(n, self.ours[chosen]) - rng.binomial(n, self.theirs[chosen])) / n

    def pilot(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples of both models on one draw of the questions, (size, n) each."""
        chosen = rng.integers(len(self.ours), size=self.size)
        ours, theirs = (rng.random((self.size, n)) < p[chosen, None] for p in (self.ours, self.theirs))
        return ours.astype(int), theirs.astype(int)


def populations(scenario: Scenario) -> list[Population]:
    """One for each benchmark; the mean difference of each is exact."""
    found = []
    for number, (size, mean) in enumerate(zip(scenario.sizes, scenario.means, strict=True)):
        rng = np.random.default_rng(number)
        theirs = np.clip(rng.beta(mean, 1 - mean, 100_000), 1e-6, 1 - 1e-6)
        noise = scenario.noise * rng.normal(size=len(theirs))

        def moved(by: float, theirs: np.ndarray = theirs, noise: np.ndarray = noise) -> np.ndarray:
            if scenario.log_odds:
                return special.expit(special.logit(theirs) + noise + by)
            return np.clip(theirs + noise + by, 0, 1)

        target = theirs.mean() + scenario.difference
        shift = optimize.brentq(lambda by, moved=moved, target=target: moved(by).mean() - target, -9, 9)
        found.append(Population(size, moved(shift), theirs))
    return found


def differs(gains: Sequence[np.ndarray]) -> np.ndarray:
    """Whether each evaluation's interval of the average difference excludes 0, as in eval.compare, (repeats,).

    Args:
        gains: of each benchmark (repeats, questions).
    """
    means = np.array([own.mean(axis=1) for own in gains])
    reach = [stats.t.ppf(0.975, own.shape[1] - 1) * own.std(axis=1, ddof=1) / own.shape[1] ** 0.5 for own in gains]
    return np.abs(means.sum(axis=0)) > np.linalg.norm(reach, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the power of the n that eval.power names.")
    parser.add_argument("--repeats", type=int, default=2000, help="simulated evaluations of each scenario")
    parser.add_argument("--pilots", type=int, default=300, help="simulated pilots of each scenario")
    parser.add_argument("--pilot-n", type=int, default=8, help="samples a question of a pilot")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    head(
        "questions",
        "difference",
        "noise",
        "of",
        "n",
        "power found",
        f"n of pilots, {options.pilot_n} samples: 5%, 50%, 95%",
        "their power",
    )
    for scenario in SCENARIOS:
        every = populations(scenario)
        true = [own.variances for own in every]
        n = samples_needed(true, scenario.difference, 0.8)
        found = "-"
        if n is not None:
            found = f"{100 * differs([own.gains(rng, n, options.repeats) for own in every]).mean():.1f}"
        planned: list[float] = []
        for _ in range(options.pilots):
            parts = not_negative([Variances.of_two(*own.pilot(rng, options.pilot_n)) for own in every])
            planned.append(samples_needed(parts, scenario.difference, 0.8) or math.inf)
        planned.sort()
        middle = [planned[round(share * (len(planned) - 1))] for share in (0.05, 0.5, 0.95)]
        reached = [
            "-" if count == math.inf else f"{100 * power(true, count, scenario.difference):.0f}" for count in middle
        ]
        row(
            ", ".join(map(str, scenario.sizes)),
            scenario.difference,
            scenario.noise,
            "log-odds" if scenario.log_odds else "chances",
            n or "none",
            found,
            ", ".join("none" if count == math.inf else f"{count:.0f}" for count in middle),
            ", ".join(reached),
        )


if __name__ == "__main__":
    main()
