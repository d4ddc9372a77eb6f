"""Speed of the verifier, compared with plain Math-Verify on real responses in one run.

    python -m benchmarks.verifier --data ../shared/data/graded [--workers 2] [--repeat 3]

Math-Verify runs in this process, one answer after another, as a reward function would call it: reference answers in a
box, box first, nothing unanchored, its own time limits on. Prints a Markdown table. Each figure is the best of
`--repeat` passes, without the start of the worker processes.
"""

import argparse
import json
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from openrlhf_mel.verifier import Verifier

Pairs = list[tuple[str, str]]
INTEGER = re.compile(r"-?[\d,]+")


def load(folder: Path) -> Pairs:
    """Return (response, reference answer) of both sets of real responses; a solution's last "A: x" is put in a box."""
    pairs = []
    for name, boxed in (("qwen25math_math100x8.jsonl", True), ("openai_gsm8k_solutions_half.jsonl", False)):
        path = folder / name
        if not path.is_file():
            sys.exit(f"error: no file {path}; pass the folder of the graded responses as --data")
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                response = row["completion"]
                if not boxed:
                    before, mark, answer = response.rpartition("A: ")
                    response = f"{before}\\boxed{{{answer.strip()}}}" if mark else response
                pairs.append((response, row["gold"]))
    return pairs


def math_verify_alone(pairs: Pairs) -> list[bool]:
    """Plain Math-Verify, anchored."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    anchored = [
        LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False),
        ExprExtractionConfig(try_extract_without_anchor=False),
    ]
    return [verify(parse(f"\\boxed{{{gold}}}"), parse(response, anchored)) for response, gold in pairs]


def best_of(repeat: int, judge: Callable[[Pairs], list[bool]], pairs: Pairs) -> tuple[float, list[bool]]:
    """Return the seconds of the fastest of `repeat` passes, and the verdicts."""
    seconds, verdicts = float("inf"), []
    for _ in range(repeat):
        started = time.perf_counter()
        verdicts = judge(pairs)
        seconds = min(seconds, time.perf_counter() - started)
    return seconds, verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the verifier's speed with plain Math-Verify's.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/graded"), help="folder of graded responses")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    pairs = load(options.data)
    sets = {
        "mixed (all)": pairs,
        "integer reference answers": [pair for pair in pairs if INTEGER.fullmatch(pair[1])],
        "other reference answers": [pair for pair in pairs if not INTEGER.fullmatch(pair[1])],
    }
    math_verify_alone(pairs[:20])
    with Verifier(workers=options.workers) as verifier:
        verifier.verify_many([("\\boxed{x+1}", "x")] * 2 * options.workers)

        def ours(pairs: Pairs) -> list[bool]:
            return [verdict.correct for verdict in verifier.verify_many(pairs)]

        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
        print(f"{options.workers} workers, best of {options.repeat}\n")
        print("| set | pairs | Math-Verify, 1 process (1/s) | verifier (1/s) | ratio | verdicts that differ |")
        print("|---|---|---|---|---|---|")
        for name, chosen in sets.items():
            theirs_s, theirs = best_of(options.repeat, math_verify_alone, chosen)
            ours_s, verdicts = best_of(options.repeat, ours, chosen)
            differ = sum(a != b for a, b in zip(theirs, verdicts, strict=True))
            rates = f"{len(chosen) / theirs_s:,.0f} | {len(chosen) / ours_s:,.0f} | {theirs_s / ours_s:.1f}"
            print(f"| {name} | {len(chosen):,} | {rates} | {differ} |")


if __name__ == "__main__":
    main()
