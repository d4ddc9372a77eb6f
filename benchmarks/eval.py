"""Cost of the evaluation itself, with real responses from a server that answers at once.

    python -m benchmarks.eval --data FOLDER

The responses are Qwen2.5-Math's on MATH, assigned to the questions at random. This measures sending, receiving, grading
under both extractions, and writing: of the paper's five benchmarks (golds of every kind), of those with whole-number golds
alone, and a resume with no sample left to draw. Then memory with ten times the responses. Prints a Markdown table; fails
below the rates, or beyond the seconds, the memory and the growth that are named here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import measured
from benchmarks.scripted_server import ScriptedServer
from eval.arguments import PAPER_BENCHMARKS
from eval.store import read_samples

RESPONSES = Path("graded") / "qwen25math_math100x8.jsonl"
INTEGER = "aime24,aime25,amc23"
N = 8  # sampled responses of each question, besides the greedy one
INTEGER_N = 80  # of fewer questions, so that starting up does not count
TIMES = 10
LIMIT_S, RESUME_LIMIT_S, LIMIT_GB = 60, 5, 1.5
LEAST_RATES = {"mixed golds": 350, "whole-number golds": 800}  # responses a second on two cores
MOST_GROWTH = 1.10  # of memory, with `TIMES` as many responses


def serve(path: Path, ready: Connection) -> None:
    """Answer every request at once with one of the responses, until the other end of the pipe closes."""
    texts = [json.loads(line)["completion"] for line in path.read_text(encoding="utf-8").splitlines()]

    def answer(prompt: str, greedy: bool, seed: int) -> str:
        return texts[(seed if not greedy else len(prompt)) % len(texts)]

    with ScriptedServer(answer) as server:
        ready.send((server.url, server.model))
        ready.poll(None)


def main() -> None:
    """Prepare, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {RESPONSES} and benchmarks/")
    options = parser.parse_args()
    if not (options.data / RESPONSES).is_file():
        sys.exit(f"error: no file {options.data / RESPONSES}; pass the folder with graded/ and benchmarks/ as --data")
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(options.data / RESPONSES, theirs), daemon=True)
    server.start()
    url, model = ours.recv()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "benchmarks"
        flags = ["--input-dir", options.data / "benchmarks", "--output-dir", data, "--only", PAPER_BENCHMARKS]
        measured.run([sys.executable, "-m", "data.prepare_benchmarks", *flags])

        def evaluate(name: str, benchmarks: str, n: int) -> tuple[measured.Cost, int, int]:
            """What it takes, and the number of responses and of their characters."""
            output = Path(folder) / name
            flags = ["--backend", "openai", "--base-url", url, "--model", model, "--data-dir", data]
            flags += ["--output-dir", output, "--benchmarks", benchmarks, "--n", n, "--metrics", f"pass@1,avg@{n}"]
            cost = measured.run([sys.executable, "-m", "eval.run", *flags])
            paths = [output / "samples" / f"{name}.jsonl" for name in benchmarks.split(",")]
            lengths = [len(sample.response) for path in paths for sample in read_samples(path)]
            return cost, len(lengths), sum(lengths)

        runs = {
            "mixed golds": evaluate("mixed", PAPER_BENCHMARKS, N),
            "nothing left": evaluate("mixed", PAPER_BENCHMARKS, N),
            "whole-number golds": evaluate("integer", INTEGER, INTEGER_N),
            f"{TIMES} times": evaluate("times", PAPER_BENCHMARKS, TIMES * (N + 1) - 1),
        }
    server.terminate()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| run | responses | characters | seconds | responses/s | peak memory (GB) |\n|---|---|---|---|---|---|")
    for name, (cost, count, characters) in runs.items():
        rate = "" if name == "nothing left" else f"{count / cost.seconds:,.0f}"
        print(f"| {name} | {count:,} | {characters / count:,.0f} | {cost.seconds:.1f} | {rate} | {cost.memory:.2f} |")
    failed = [
        f"{name}: {count / cost.seconds:,.0f} responses/s, expected {LEAST_RATES[name]}"
        for name, (cost, count, _) in runs.items()
        if name in LEAST_RATES and count / cost.seconds < LEAST_RATES[name]
    ]
    if runs["nothing left"][0].seconds > RESUME_LIMIT_S:
        failed.append(f"the resume took more than {RESUME_LIMIT_S} s")
    if runs["mixed golds"][0].seconds > LIMIT_S:
        failed.append(f"mixed golds took more than {LIMIT_S} s")
    failed += [f"{name}: more than {LIMIT_GB} GB" for name, (cost, *_) in runs.items() if cost.memory > LIMIT_GB]
    growth = runs[f"{TIMES} times"][0].memory / runs["mixed golds"][0].memory
    if growth > MOST_GROWTH:
        failed.append(f"memory grows {growth:.2f}-fold with {TIMES} times the responses, expected {MOST_GROWTH}")
    if failed:
        sys.exit(f"error: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
