"""Trains GRPO and MEL on the built-in task, and evaluates both on held-out questions (`make demo`).

    python -m demo [--output-dir runs/demo]

Writes there: the run folders `grpo` and `mel`, the outputs of `eval.run` and `eval.report` for them and the base model
(`eval`, `report`), `summary.json` and `curves.png`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm import tqdm

from demo import curves, scoreboard
from eval import report, run
from eval.store import read_questions, read_samples
from openrlhf_mel import disk
from openrlhf_mel.run import records

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "data" / "toy"
ALGORITHMS = ("grpo", "mel")
BASE, TEST, EVALUATION = "base", "test", "eval"
SAMPLES, TEMPERATURE, MAX_NEW_TOKENS = 8, 0.6, 64  # as in the paper: Avg@8 and Pass@8 at temperature 0.6
SEED = 42


class Failed(Exception):
    """A run or an evaluation ended with an error; the message holds the last lines of its log, if it has one."""


def main(arguments: list[str] | None = None) -> int:
    """Train both, score all three, write and print the result. Returns the exit code."""
    parser = argparse.ArgumentParser(description="GRPO and MEL on the built-in task, scored on held-out questions")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "runs" / "demo", help="default: runs/demo")
    folder = parser.parse_args(arguments).output_dir.resolve()
    # Such small matrices gain nothing from a second thread, and lose much when another process uses its core.
    torch.set_num_threads(1)
    clear(folder)
    try:
        for name in ALGORITHMS:
            train(name, folder)
        held = {name: score(name, folder) for name in (BASE, *ALGORITHMS)}
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    runs = {name: list(disk.read_lines(folder / name / records.METRICS)) for name in ALGORITHMS}
    archives = {name: list(disk.read_lines(folder / name / records.ARCHIVE)) for name in ALGORITHMS}
    result = {name: scoreboard.scores(matrices) for name, matrices in held.items()} | {
        "gain_over_base": {name: scoreboard.gain(held[name], held["base"]) for name in ALGORITHMS},
        "training": {name: scoreboard.training(runs[name], archives[name], mel=name == "mel") for name in ALGORITHMS},
    }
    disk.write_json(folder / "summary.json", result)
    curves.draw(folder / "curves.png", runs)
    evaluations = [folder / EVALUATION / name for name in held]
    with contextlib.redirect_stdout(io.StringIO()):
        report.main(list(map(str, [*evaluations, "--output", folder / "report"])))
    made = [folder / "summary.json", folder / "curves.png", folder / "report" / "index.html"]
    print(f"\n{scoreboard.table(result, held)}\n")
    print("\n".join(map(str, made)))
    return 0


def clear(folder: Path) -> None:
    """Remove what an earlier demo left in `folder`, and nothing else."""
    for name in (*ALGORITHMS, EVALUATION, "report"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.log").unlink(missing_ok=True)
    for name in ("summary.json", "curves.png"):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def train(name: str, folder: Path) -> None:
    """Run the training command with a progress bar; its output goes to `<name>.log` in `folder`.

    Raises:
        Failed: it ended with an error.
    """
    # Not in the run's own `logs/`: a run folder that is not empty is refused.
    config, run_dir, log = TOY / f"{name}.yaml", folder / name, folder / f"{name}.log"
    command = [sys.executable, "-m", "openrlhf_mel.train", "--config", str(config), "--mel.run_dir", str(run_dir)]
    with open(log, "wb") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            follow(child, run_dir, expected_steps(config))
        finally:
            stop(child)
    if child.returncode:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise Failed(f"error: {name}: training ended with exit code {child.returncode}\n{last}\nlog: {log}")


def expected_steps(config: Path) -> int:
    """Optimizer steps of a run: whole rollout batches of its questions, times the episodes."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    with open(ROOT / settings["data"]["prompt_dataset"], encoding="utf-8") as rows:
        most: int = settings["data"]["max_samples"]
        questions = min(sum(1 for _ in rows), most)
    batch: int = settings["rollout"]["batch_size"]
    episodes: int = settings["train"]["num_episodes"]
    return questions // batch * episodes


def follow(child: subprocess.Popen[bytes], run_dir: Path, total: int) -> None:
    """Advance a progress bar with the lines of the run's `metrics.jsonl`, until the run ends."""
    with tqdm(total=total, desc=f"{run_dir.name:<4} starting", unit="step") as bar:
        running = True
        while running:
            running = child.poll() is None
            steps = list(disk.read_lines(run_dir / records.METRICS))
            if len(steps) > bar.n:
                bar.set_description(f"{run_dir.name:<4} training")
                bar.set_postfix(reward=f"{steps[-1]['reward_mean']:.2f}", refresh=False)
                bar.update(len(steps) - bar.n)
            if running:
                time.sleep(0.5)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a run when the demo ends early."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def score(name: str, folder: Path) -> scoreboard.Held:
    """Evaluate a model on the held-out questions with the evaluation's own command, into `folder/eval/<name>`.

    Raises:
        Failed: the evaluation ended with an error, which it has printed.
    """
    out = folder / EVALUATION / name
    model = ["--model", TOY / "model"] if name == BASE else ["--run", folder / name]
    # vLLM draws the same responses, but takes about three times as long with so small a model: it starts another
    # process.
    flags = ["--backend", "hf", "--data-dir", TOY, "--benchmarks", TEST, "--template", TOY / "templates"]
    numbers = ["--n", SAMPLES, "--temperature", TEMPERATURE, "--max-tokens", MAX_NEW_TOKENS, "--seed", SEED]
    with contextlib.redirect_stdout(io.StringIO()):
        code = run.main(list(map(str, [*model, *flags, *numbers, "--output-dir", out])))
    if code:
        raise Failed(f"error: {name}: the evaluation ended with exit code {code}")
    return held_out(out if name == BASE else out / "model")


def held_out(folder: Path) -> scoreboard.Held:
    """The correctness of an evaluation's samples, question by question."""
    right = {sample.key: sample.status == "correct" for sample in read_samples(folder / "samples" / f"{TEST}.jsonl")}
    ids = [question.id for question in read_questions(folder, TEST)]
    return scoreboard.Held(
        np.array([[right[q, 0, True]] for q in ids], dtype=int),
        np.array([[right[q, i, False] for i in range(SAMPLES)] for q in ids], dtype=int),
    )


if __name__ == "__main__":
    sys.exit(main())
