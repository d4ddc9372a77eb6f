"""GRPO and MEL on the built-in task, and how both do on held-out questions (`make demo`).

    python data/toy/demo.py [--output-dir runs/demo]

Writes there: the run directories `grpo` and `mel`, `summary.json` and `curves.png`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.toy import curves, summary  # noqa: E402
from data.toy.generation import generate  # noqa: E402
from openrlhf_mel import runlog  # noqa: E402
from openrlhf_mel.prompts import Templates  # noqa: E402
from openrlhf_mel.verifier import verify  # noqa: E402

TOY = ROOT / "data" / "toy"
ALGORITHMS = ("grpo", "mel")
SAMPLES, TEMPERATURE, MAX_NEW_TOKENS = 8, 0.6, 64  # as in the paper: Avg@8 and Pass@8 at temperature 0.6
SEED = 42


class TrainingFailed(Exception):
    """A run ended with an error; the message holds the last lines of its log."""


def main(arguments: list[str] | None = None) -> int:
    """Train both, score all three, write and print the result. Returns the exit code."""
    parser = argparse.ArgumentParser(description="GRPO and MEL on the built-in task, scored on held-out questions")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "runs" / "demo", help="default: runs/demo")
    folder = parser.parse_args(arguments).output_dir.resolve()
    # Matrices this small gain nothing from a second thread, and lose a lot when its core is taken by another process.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    clear(folder)
    try:
        for name in ALGORITHMS:
            train(name, folder)
    except TrainingFailed as error:
        print(error, file=sys.stderr)
        return 1
    models = {"base": TOY / "model"} | {name: folder / name / "model" for name in ALGORITHMS}
    held = {name: score(name, path) for name, path in models.items()}
    runs = {name: list(runlog.read_lines(folder / name / runlog.METRICS)) for name in ALGORITHMS}
    archives = {name: list(runlog.read_lines(folder / name / runlog.ARCHIVE)) for name in ALGORITHMS}
    result = {name: summary.scores(matrices) for name, matrices in held.items()} | {
        "gain_over_base": {name: summary.gain(held[name], held["base"]) for name in ALGORITHMS},
        "training": {name: summary.training(runs[name], archives[name], mel=name == "mel") for name in ALGORITHMS},
    }
    runlog.write_json(folder / "summary.json", result)
    curves.draw(folder / "curves.png", runs)
    print(f"\n{summary.table(result, held)}\n\n{folder / 'summary.json'}\n{folder / 'curves.png'}")
    return 0


def clear(folder: Path) -> None:
    """Remove what an earlier demo left in `folder`, and nothing else."""
    for name in ALGORITHMS:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.log").unlink(missing_ok=True)
    for name in ("summary.json", "curves.png"):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def train(name: str, folder: Path) -> None:
    """Run the training command under a progress bar; what it prints goes to `<name>.log` in `folder`.

    Raises:
        TrainingFailed: it ended with an error.
    """
    # Not in the run's own `logs/`: a run directory that is not empty is refused.
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
        raise TrainingFailed(f"error: {name}: training ended with exit code {child.returncode}\n{last}\nlog: {log}")


def expected_steps(config: Path) -> int:
    """Optimizer steps of a run: whole rollout batches of its questions, times the episodes."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    with open(ROOT / settings["data"]["prompt_dataset"], encoding="utf-8") as rows:
        questions = min(sum(1 for _ in rows), settings["data"]["max_samples"])
    return questions // settings["rollout"]["batch_size"] * settings["train"]["num_episodes"]


def follow(child: subprocess.Popen[bytes], run_dir: Path, total: int) -> None:
    """Move a bar on with the lines of the run's `metrics.jsonl`, until the run ends."""
    with tqdm(total=total, desc=f"{run_dir.name:<4} starting", unit="step") as bar:
        running = True
        while running:
            running = child.poll() is None
            steps = list(runlog.read_lines(run_dir / runlog.METRICS))
            if len(steps) > bar.n:
                bar.set_description(f"{run_dir.name:<4} training")
                bar.set_postfix(reward=f"{steps[-1]['reward_mean']:.2f}", refresh=False)
                bar.update(len(steps) - bar.n)
            if running:
                time.sleep(0.5)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a run that the demo leaves early."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def score(name: str, path: Path) -> summary.Held:
    """Generate and judge the held-out questions' answers of the model at `path`."""
    rows = [json.loads(line) for line in (TOY / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    templates = Templates.load(TOY / "templates")
    prompts = [templates.question(row["input"]) for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    matrices = []
    for temperature, samples in tqdm(((0.0, 1), (TEMPERATURE, SAMPLES)), desc=f"{name:<4} held-out", unit="pass"):
        responses = generate(
            model,
            tokenizer,
            prompts,
            temperature=temperature,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=SEED,
            samples=samples,
        )
        graded = [
            [verify(text, row["label"]).correct for text in texts] for texts, row in zip(responses, rows, strict=True)
        ]
        matrices.append(np.array(graded, dtype=int))
    return summary.Held(*matrices)


if __name__ == "__main__":
    sys.exit(main())
