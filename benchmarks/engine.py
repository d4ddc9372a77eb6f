"""Duration of a MEL step of the demo and of start-up on a CPU: real vLLM compared with the transformers engine.

    python -m benchmarks.engine [--rounds 3] [--steps 6]

Each round trains with both engines in sequence; which one comes first alternates. A step is the time between two rows
of `metrics.jsonl`. Prints a Markdown table. Fails when vLLM's step takes longer than the transformers engine's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("vllm", "transformers")
QUESTIONS = 32  # per step of data/toy/mel.yaml
LIMIT = 1.0


class Measured(NamedTuple):
    """Seconds: of each step after the first; from start to the end of the first step; from start to exit."""

    steps: list[float]
    first: float
    whole: float


def train(engine: str, steps: int) -> Measured:
    """Run the demo's training with meta-experiences in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        command = [
            sys.executable, "-m", "openrlhf_mel.train", "--config", "data/toy/mel.yaml", f"--mel.run_dir={folder}/run",
            f"--mel.cpu_engine={engine}", f"--data.max_samples={steps * QUESTIONS}",
        ]  # fmt: skip
        begun, first = time.monotonic(), 0.0
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("step 1 "):
                    first = time.monotonic() - begun
        whole = time.monotonic() - begun
        if process.returncode:
            sys.exit("".join(said))
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    ends = [row["seconds"] for row in rows]
    return Measured([b - a for a, b in itertools.pairwise(ends)], first, whole)


def main() -> None:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    found: dict[str, list[Measured]] = {engine: [] for engine in ENGINES}
    for number in range(options.rounds):
        for engine in ENGINES if number % 2 == 0 else ENGINES[::-1]:
            found[engine].append(train(engine, options.steps))
    print("| engine | step, median (s) | first step done (s) | whole command (s) |\n|---|---|---|---|")
    for engine, runs in found.items():
        step = median(s for run in runs for s in run.steps)
        print(f"| {engine} | {step:.2f} | {median(r.first for r in runs):.1f} | {median(r.whole for r in runs):.1f} |")
    ratios = [median(v.steps) / median(t.steps) for v, t in zip(*(found[engine] for engine in ENGINES), strict=True)]
    print(
        f"\nvLLM's step takes {median(ratios):.2f} of the other's (by round: {', '.join(f'{r:.2f}' for r in ratios)})"
    )
    if median(ratios) > LIMIT:
        sys.exit(f"expected at most {LIMIT}")


if __name__ == "__main__":
    main()
