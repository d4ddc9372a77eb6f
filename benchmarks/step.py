"""Price of a MEL step of the demo: its duration against a GRPO step's, for both ways of construction.

    python -m benchmarks.step [--rounds 5] [--steps 10] [--engine vllm]

Each round trains GRPO, MEL with streaming and MEL with deferred construction, one after the other; the order turns with
each round. A step is the time between two rows of `metrics.jsonl`; a round's figure is the median of its steps without
the first and the last, which construct less or more than the others. Prints a Markdown table, and fails when MEL's step
takes more than `LIMIT` of GRPO's with either.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median, stdev

from benchmarks.toy_training import Training, train

RUNS = {
    "GRPO": ("grpo",),
    "MEL, streaming": ("mel", "--mel.construction=streaming"),
    "MEL, deferred": ("mel", "--mel.construction=deferred"),
}
BASE = "GRPO"
PARTS = {
    "generation": "timing/generation",
    "log-probs": "timing/make_experience",
    "update": "timing/ppo_train",
    "hand-over": "timing/broadcast",
}
TOKENS = ("rollout/tokens", "mel/tokens", "mel/rewritten_tokens")
LIMIT = 1.25


def counted(run: Training) -> list[dict[str, float]]:
    """The rows of the steps that count, each with its duration as `step`."""
    return [row | {"step": s} for row, s in zip(run.rows[1:], run.steps(), strict=True)][:-1]


def typical(run: Training, key: str) -> float:
    """The median of a figure over the steps that count."""
    return median(row[key] for row in counted(run))


def ratios(runs: list[Training], bases: list[Training]) -> list[float]:
    """Each round's step against GRPO's."""
    return [typical(run, "step") / typical(base, "step") for run, base in zip(runs, bases, strict=True)]


def main() -> None:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="at least 4")
    parser.add_argument("--engine", default="vllm", choices=("vllm", "transformers"))
    options = parser.parse_args()
    found: dict[str, list[Training]] = {name: [] for name in RUNS}
    names = list(RUNS)
    for number in range(options.rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            config, *flags = RUNS[name]
            found[name].append(train(config, options.steps, f"--mel.cpu_engine={options.engine}", *flags))
    print(f"| run | step (s) | {' | '.join(f'{part} (s)' for part in PARTS)} | tokens | idle | against GRPO |")
    print(f"|---|---|{'---|' * len(PARTS)}---|---|---|")
    for name, runs in found.items():
        parts = [f"{median(typical(run, key) for run in runs):.2f}" for key in ("step", *PARTS.values())]
        tokens = median(median(sum(row.get(key, 0) for key in TOKENS) for row in counted(run)) for run in runs)
        idle = median(typical(run, "timing/generation_idle") for run in runs)
        own = ratios(runs, found[BASE])
        spread = f" ± {stdev(own):.2f}" if len(own) > 1 else ""
        print(f"| {name} | {' | '.join(parts)} | {tokens:,.0f} | {idle:.2f} | {median(own):.2f}{spread} |")
    prices = {name: median(ratios(runs, found[BASE])) for name, runs in found.items()}
    if dear := [f"{name}: a step takes {price:.2f} of GRPO's" for name, price in prices.items() if price > LIMIT]:
        sys.exit(f"{'; '.join(dear)}; expected at most {LIMIT}")


if __name__ == "__main__":
    main()
