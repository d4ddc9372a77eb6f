"""A training run's folder whose checkpoints are stand-ins, and damage to their files."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from eval.checkpoint_models import CheckpointModel
from openrlhf_mel.run import checkpoint

CONFIG = {
    "actor.model_name_or_path": "base",
    "actor.num_nodes": 1,
    "actor.num_gpus_per_node": 2,
    "ds.zero_stage": 2,
    "ds.lora.rank": 0,
}


class RunFolder:
    """Builds a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.actor = path / "checkpoints" / "_actor"
        self.actor.mkdir(parents=True)
        self.config(**CONFIG, **{"mel.run_dir": str(path)})
        self.steps(1, 2, 3)

    def config(self, **values: object) -> None:
        old = json.loads((self.path / "manifest.json").read_text())["config"] if self.manifest.exists() else {}
        self.manifest.write_text(json.dumps({"config": old | values}))

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    def steps(self, *steps: int) -> None:
        (self.path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in steps))

    def deepspeed(self, tag: str, stage: int = 2, ranks: int = 2, sealed: bool = True) -> Path:
        folder = self.actor / f"{tag}{checkpoint.PARTIAL}"
        folder.mkdir()
        states = [f"zero_pp_rank_{rank}_" for rank in range(ranks)] if stage == 3 else [""]
        for name in [f"{state}mp_rank_00_model_states.pt" for state in states] + [
            f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)
        ]:
            with zipfile.ZipFile(folder / name, "w") as file:
                file.writestr("data.pkl", b"x" * 500)
        (folder / "metric.json").write_text("{}")
        (self.actor / "latest").write_text(tag)
        return checkpoint.seal(folder, ranks, None, None) if sealed else folder.rename(self.actor / tag)

    def export(self, name: str) -> Path:
        folder = self.path / name
        write_model(folder)
        return folder


def write_model(folder: Path, stem: str = "model") -> None:
    folder.mkdir(parents=True)
    save_file({"w": np.zeros(4, np.float32)}, folder / f"{stem}.safetensors")
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")


def zero(path: Path) -> None:
    """Overwrite the file's start with zeros, like a file system that lost a block."""
    with open(path, "r+b") as file:
        file.write(bytes(20))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def labels(found: list[CheckpointModel]) -> list[str]:
    """Return their labels."""
    return [c.label for c in found]


def ignore(_: str) -> None:
    """Take a line of `select`, and drop it."""
