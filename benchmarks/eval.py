"""Cost of the evaluation itself: the paper's five benchmarks, 9 samples per question, a server that answers at once.

    python -m benchmarks.eval --data FOLDER

The responses are real ones (Qwen2.5-Math's on MATH), assigned to the questions at random. This measures sending,
receiving, grading under both extractions, and writing, then a resume with no sample left to draw. Prints a Markdown
table; fails beyond 60 s, 5 s for the resume, or 1.5 GB.
"""

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
LIMIT_S, RESUME_LIMIT_S, LIMIT_GB = 60, 5, 1.5


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
        data, output = Path(folder) / "benchmarks", Path(folder) / "out"
        flags = ["--input-dir", options.data / "benchmarks", "--output-dir", data, "--only", PAPER_BENCHMARKS]
        measured.run([sys.executable, "-m", "data.prepare_benchmarks", *flags])
        flags = ["--backend", "openai", "--base-url", url, "--model", model, "--data-dir", data, "--output-dir", output]
        runs = {
            name: measured.run([sys.executable, "-m", "eval.run", *flags]) for name in ("all to draw", "nothing left")
        }
        samples = [
            s for name in PAPER_BENCHMARKS.split(",") for s in read_samples(output / "samples" / f"{name}.jsonl")
        ]
        characters = sum(len(sample.response) for sample in samples)
    server.terminate()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"{len(samples):,} responses of {characters / len(samples):,.0f} characters on average\n")
    print("| run | seconds | responses/s | peak memory (GB) |\n|---|---|---|---|")
    first, again = runs.values()
    print(f"| all to draw | {first.seconds:.1f} | {len(samples) / first.seconds:,.0f} | {first.memory:.2f} |")
    print(f"| nothing left | {again.seconds:.1f} | | {again.memory:.2f} |")
    if first.seconds > LIMIT_S or again.seconds > RESUME_LIMIT_S or first.memory > LIMIT_GB:
        sys.exit(f"error: beyond {LIMIT_S} s, {RESUME_LIMIT_S} s for the resume, or {LIMIT_GB} GB")


if __name__ == "__main__":
    main()
