"""A short run of the real trainer, killed half-way and resumed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from slurm.lib import gpu_memory, process_group

ROOT = Path(__file__).resolve().parents[2]
STEPS, KILL_AFTER = 4, 2
TRAINING_S = 1500  # for each half
_POLL_S = 0.05  # GPU memory is at its minimum for less than a second


class ShortTraining:
    """A run with the presets' settings as far as the machine allows, on `gpus` GPUs; 0 means the CPU runtime."""

    def __init__(self, model: str, folder: Path, gpus: int):
        self.run_dir = folder / "run"
        self.before: dict[int, float] = {}  # GiB of each GPU, before the kill and after the resume
        self.after: dict[int, float] = {}
        self._cuda = cuda = gpus > 0
        self._config = folder / "first_hour.yaml"
        places = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0) or gpus or 1
        toy = model.endswith("data/toy/model")
        settings: dict[str, Any] = {
            # A high learning rate: weights that were not synchronized show in the log-probs.
            "actor": {"model_name_or_path": model, "num_gpus_per_node": places, "adam": {"lr": 1e-3 if toy else 2e-5},
                      "lr_scheduler": "constant", "gradient_checkpointing_enable": cuda},
            "data": {"prompt_dataset": str(ROOT / "data/toy/train.jsonl"), "input_key": "input", "label_key": "label",
                     "max_len": 384 if toy else 4096, "max_samples": 16 * STEPS},
            "rollout": {"batch_size": 16, "n_samples_per_prompt": 8, "max_new_tokens": 64 if toy else 768},
            "train": {"batch_size": 128, "colocate_all": True, "dynamic_batch_enable": True, "max_tokens_per_gpu": 8192},
            "ds": {"zero_stage": 3, "packing_samples": True, "attn_implementation": "flash_attention_2", "enable_sleep": cuda},
            "vllm": {"num_engines": places, "enable_sleep": True, "gpu_memory_utilization": 0.5},
            "ckpt": {"save_steps": 1, "max_num": 2},
            "mel": {"runtime": "cuda" if cuda else "cpu", "run_dir": str(self.run_dir),
                    "template_dir": str(ROOT / "data/toy/templates") if toy else None},
        }  # fmt: skip
        self._config.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def run(self) -> str:
        """Run until killed after some steps, then resume to the end. Returns the error, or nothing."""
        first = self._start()
        try:
            ended = self._watch(first, KILL_AFTER, self.before)
        finally:
            # Like a preemption without warning; at a timeout like every command.
            process_group.end(first, grace=0 if self._saved(KILL_AFTER) else None)
        if ended:
            return f"training ended with exit code {first.returncode} before step {KILL_AFTER}"
        if not self._saved(KILL_AFTER):
            return f"no checkpoint of step {KILL_AFTER} within {TRAINING_S} s"
        second = self._start()
        try:
            started = time.monotonic()
            self._watch(second, STEPS, self.after)
            code = second.wait(max(0.0, TRAINING_S - (time.monotonic() - started)))
        except subprocess.TimeoutExpired:
            return f"the resumed training did not end within {TRAINING_S} s"
        finally:
            process_group.end(second)
        return f"the resumed training ended with exit code {code}" if code else ""

    def _watch(self, process: subprocess.Popen[bytes], step: int, least: dict[int, float]) -> bool:
        """Wait for the checkpoint of `step`; note in `least` each GPU's least memory in use since the previous one, over
        a whole step, so that the phases are the same. Returns whether the process has ended before."""
        deadline = time.monotonic() + TRAINING_S
        while not self._saved(step) and time.monotonic() < deadline:
            if process.poll() is not None:
                return True
            if self._cuda and self._saved(step - 1):
                gpu_memory.note(least)
            time.sleep(_POLL_S)
        return False

    def metrics(self) -> list[dict[str, Any]]:
        """The run's metrics, one row per step."""
        path = self.run_dir / "metrics.jsonl"
        return (
            [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
        )

    def manifest(self) -> dict[str, Any]:
        """The run's manifest."""
        path = self.run_dir / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "openrlhf_mel.train", "--config", self._config, "--ckpt.load_enable"]
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, start_new_session=True)

    def _saved(self, step: int) -> bool:
        """Whether the checkpoint of `step`, or a later one, is whole: `latest` is written last."""
        path = self.run_dir / "checkpoints" / "_actor" / "latest"
        found = re.search(r"(\d+)$", path.read_text().strip()) if path.exists() else None
        return found is not None and int(found[1]) >= step
