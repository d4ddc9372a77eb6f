"""What the evaluation itself costs: the paper's five benchmarks, 9 samples a question, from a server that answers at once.

    python benchmarks/eval.py --data FOLDER

The responses are real ones (Qwen2.5-Math's on MATH), dealt out to the questions at random: what is measured is sending,
receiving, grading under both extractions, and writing. Then the same command again, with nothing left to draw. Prints a
Markdown table; fails beyond 60 s, 5 s for the resume, or 1.5 GB.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

# first, since this file's own folder would otherwise give itself for the package `eval`
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.arguments import PAPER_BENCHMARKS
from eval.store import read_samples

ROOT = Path(__file__).resolve().parents[1]
RESPONSES = Path("graded") / "qwen25math_math100x8.jsonl"
LIMIT_S, RESUME_LIMIT_S, LIMIT_GB = 60, 5, 1.5


def serve(path: Path, ready: Connection) -> None:
    """Answer every request at once with one of the responses, until the other end closes."""
    sys.path.append(str(ROOT / "tests"))
    from scripted_server import ScriptedServer

    texts = [json.loads(line)["completion"] for line in path.read_text(encoding="utf-8").splitlines()]

    def answer(prompt: str, greedy: bool, seed: int) -> str:
        return texts[(seed if not greedy else len(prompt)) % len(texts)]

    with ScriptedServer(answer) as server:
        ready.send((server.url, server.model))
        ready.poll(None)


def evaluate(url: str, model: str, data: Path, output: Path) -> tuple[float, float]:
    """Run the command; returns seconds and the peak memory (GB) of the process and its children together."""
    flags = ["--backend", "openai", "--base-url", url, "--model", model, "--data-dir", data, "--output-dir", output]
    argv = [sys.executable, "-m", "eval.run", *map(str, flags)]
    started, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as log, subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(tree))
            time.sleep(0.05)
        seconds = time.monotonic() - started
        if process.returncode:
            log.seek(0)
            sys.exit(log.read().decode())
    return seconds, peak / 1e9


def resident(tree: psutil.Process) -> int:
    """Bytes of memory that the processes hold."""
    total = 0
    for process in (tree, *tree.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


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
        argv = [sys.executable, ROOT / "data" / "prepare_benchmarks.py", "--only", PAPER_BENCHMARKS]
        flags = ["--input-dir", options.data / "benchmarks", "--output-dir", data]
        subprocess.run(list(map(str, [*argv, *flags])), check=True, capture_output=True)
        runs = {"all to draw": evaluate(url, model, data, output), "nothing left": evaluate(url, model, data, output)}
        samples = [
            s for name in PAPER_BENCHMARKS.split(",") for s in read_samples(output / "samples" / f"{name}.jsonl")
        ]
        characters = sum(len(sample.response) for sample in samples)
    server.terminate()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"{len(samples):,} responses of {characters / len(samples):,.0f} characters on average\n")
    print("| run | seconds | responses/s | peak memory (GB) |\n|---|---|---|---|")
    for name, (seconds, memory) in runs.items():
        rate = f"{len(samples) / seconds:,.0f}" if name == "all to draw" else ""
        print(f"| {name} | {seconds:.1f} | {rate} | {memory:.2f} |")
    (first, memory), (again, _) = runs.values()
    if first > LIMIT_S or again > RESUME_LIMIT_S or memory > LIMIT_GB:
        sys.exit(f"error: beyond {LIMIT_S} s, {RESUME_LIMIT_S} s for the resume, or {LIMIT_GB} GB")


if __name__ == "__main__":
    main()
