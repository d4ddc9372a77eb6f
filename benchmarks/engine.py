"""Duration of a MEL step of the demo and of start-up on a CPU: real vLLM compared with the transformers engine.

    python -m benchmarks.engine [--rounds 3] [--steps 6]

Each round trains with both engines in sequence; which one comes first alternates. A step is the time between two rows
of `metrics.jsonl`. Prints a Markdown table. Fails when vLLM's step takes longer than the transformers engine's.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

from benchmarks.toy_training import Training, train

ENGINES = ("vllm", "transformers")
LIMIT = 1.0


def main() -> None:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    found: dict[str, list[Training]] = {engine: [] for engine in ENGINES}
    for number in range(options.rounds):
        for engine in ENGINES if number % 2 == 0 else ENGINES[::-1]:
            found[engine].append(train("mel", options.steps, f"--mel.cpu_engine={engine}"))
    print("| engine | step, median (s) | first step done (s) | whole command (s) |\n|---|---|---|---|")
    for engine, runs in found.items():
        step = median(s for run in runs for s in run.steps())
        print(f"| {engine} | {step:.2f} | {median(r.first for r in runs):.1f} | {median(r.whole for r in runs):.1f} |")
    ratios = [
        median(v.steps()) / median(t.steps()) for v, t in zip(*(found[engine] for engine in ENGINES), strict=True)
    ]
    print(
        f"\nvLLM's step takes {median(ratios):.2f} of the other's (by round: {', '.join(f'{r:.2f}' for r in ratios)})"
    )
    if median(ratios) > LIMIT:
        sys.exit(f"expected at most {LIMIT}")


if __name__ == "__main__":
    main()
