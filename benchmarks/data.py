"""Time to prepare DAPO-Math-17k in its published size, and the share of decontamination.

    python -m benchmarks.data --data FOLDER [--repeat 100]

The published form is simulated: the rows of the unwrapped copy, repeated, wrapped in the source's instruction, shuffled,
with the original columns. Prepares it and the unwrapped copy, compares both results, and prints a Markdown table.
"""

import argparse
import hashlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import measured
from data import sources

NAME = "dapo-math-17k"
GROUP = 100_000


def publish(copy: Path, path: Path, repeat: int) -> int:
    """Write the published form of `copy` to `path`; returns its number of rows."""
    source = sources.load(sources.TRAINING)[NAME]
    table = pq.read_table(copy)
    wrapped = [source.prefix + prompt[0]["content"] + source.suffix for prompt in table["prompt"].to_pylist()]
    golds = [model["ground_truth"] for model in table["reward_model"].to_pylist()]
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(wrapped)), repeat))
    writer = None
    for start in range(0, len(order), GROUP):
        some = order[start : start + GROUP].tolist()
        group = pa.table(
            {
                "data_source": ["math_dapo"] * len(some),
                "prompt": [[{"content": wrapped[i], "role": "user"}] for i in some],
                "ability": ["MATH"] * len(some),
                "reward_model": [{"ground_truth": golds[i], "style": "rule-lighteval/MATH_v2"} for i in some],
                "extra_info": [{"index": str(i)} for i in some],
            }
        )
        writer = writer or pq.ParquetWriter(path, group.schema)
        writer.write_table(group)
    writer.close()
    return len(order)


# Runs the command in a separate process and times the comparison with the benchmarks.
TIMED = """
import json, sys, time
from data import near_benchmarks, prepare_train
compare, spent = near_benchmarks.near_pairs, [0.0]
def timed(*arguments):
    started = time.monotonic()
    pairs = compare(*arguments)
    spent[0] += time.monotonic() - started
    return pairs
near_benchmarks.near_pairs = timed
code = prepare_train.main(sys.argv[1:])
print(json.dumps(spent[0]))
sys.exit(code)
"""


def prepare(path: Path, output: Path, benchmarks: Path) -> tuple[measured.Cost, float]:
    """Run the command; return its cost, and the seconds spent on decontamination."""
    flags = ["--source", NAME, "--input", path, "--output-dir", output, "--benchmarks-dir", benchmarks]
    cost = measured.run([sys.executable, "-c", TIMED, *flags])
    return cost, float(cost.output.splitlines()[-1])


def read_alone(path: Path) -> float:
    """Return the seconds pyarrow takes to convert questions and answers of `path` to Python texts: the lower bound."""
    started = time.monotonic()
    for batch in pq.ParquetFile(path).iter_batches(20_000, columns=["prompt", "reward_model"]):
        pc.struct_field(batch["prompt"].flatten(), "content").to_pylist()
        pc.struct_field(batch["reward_model"], "ground_truth").to_pylist()
    return time.monotonic() - started


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/dapo_math_17k_svs.parquet and benchmarks/"
    )
    parser.add_argument(
        "--repeat", type=int, default=100, help="how often each row stands in the published form (default: 100)"
    )
    options = parser.parse_args()
    copy = options.data / "train" / "dapo_math_17k_svs.parquet"
    if not copy.is_file():
        sys.exit(f"error: no file {copy}; pass the folder with train/ and benchmarks/ as --data")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        benchmarks = work / "benchmarks"
        flags = ["--output-dir", benchmarks, "--input-dir", options.data / "benchmarks"]
        measured.run([sys.executable, "-m", "data.prepare_benchmarks", *flags])
        rows = publish(copy, work / "published.parquet", options.repeat)
        floor = read_alone(work / "published.parquet")
        size = (work / "published.parquet").stat().st_size / 1e6
        published = prepare(work / "published.parquet", work / "a", benchmarks)
        unwrapped = prepare(copy, work / "b", benchmarks)
        same = len({hashlib.sha256((work / name / "train.jsonl").read_bytes()).digest() for name in "ab"}) == 1
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| input | seconds | of it decontamination | peak memory (GB) |\n|---|---|---|---|")
    names = {f"published form, {rows:,} rows, {size:.0f} MB": published, "unwrapped copy": unwrapped}
    for name, (cost, spent) in names.items():
        print(f"| {name} | {cost.seconds:.1f} | {spent:.1f} ({spent / cost.seconds:.0%}) | {cost.memory:.2f} |")
    print(f"\nreading alone, by pyarrow: {floor:.1f} s")
    print(f"train.jsonl of the published form and of the unwrapped copy: {'the same bytes' if same else 'DIFFERENT'}")
    cost, spent = published
    if cost.seconds > 90 or cost.memory > 3 or spent > cost.seconds / 2 or not same:
        sys.exit("error: beyond 90 s, 3 GB, or half of the time in decontamination, or different bytes")


if __name__ == "__main__":
    main()
