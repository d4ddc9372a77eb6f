"""A training of the demo for a measurement, in a temporary folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = 32  # per step of data/toy/*.yaml


class Training(NamedTuple):
    """The lines of its `metrics.jsonl`, and seconds from its start to the end of the first step and to its exit."""

    rows: list[dict[str, Any]]
    first: float
    whole: float

    def steps(self) -> list[float]:
        """Seconds of each step after the first: the time between two lines."""
        return [later["seconds"] - row["seconds"] for row, later in zip(self.rows, self.rows[1:], strict=False)]


def train(config: str, steps: int, *flags: str) -> Training:
    """Run `data/toy/<config>.yaml`. Ends this process with the training's output where it fails."""
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        command = [
            sys.executable, "-m", "openrlhf_mel.train", "--config", f"data/toy/{config}.yaml",
            f"--mel.run_dir={folder}/run", f"--data.max_samples={steps * QUESTIONS}", *flags,
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
    return Training(rows, first, whole)
