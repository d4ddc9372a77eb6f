"""A training run's folder, and the values of its manifest that an evaluation needs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from openrlhf_mel.run import records
from toolkit.outputs import json_or_none

FINAL = "model"  # the final model's folder, and its label
# What makes `grpo` the paper's (Eq. 10). Runs of earlier versions could change all of it, and any run can have a KL term.
PAPER_OBJECTIVE = {
    "algo.advantage.estimator": "group_norm",
    "actor.policy_loss_type": "ppo",
    "actor.loss_agg_mode": "seq-mean-token-mean",
    "algo.kl.init_coef": 0,
}


@dataclass(frozen=True)
class Run:
    """The folder, and the resolved configuration (upstream's dotted names)."""

    folder: Path
    config: dict[str, Any]

    @property
    def base(self) -> str:
        """The model that training started from: a folder, or a name on the hub."""
        name: str = self.config["actor.model_name_or_path"]
        return name

    @property
    def chat(self) -> bool:
        """Whether prompts were the user's turn of the tokenizer's chat template."""
        return bool(self.config.get("data.apply_chat_template"))

    @property
    def has_paper_objective(self) -> bool:
        """Whether it was trained with the paper's policy objective, so that the paper's rows can stand beside it."""
        return self.config.get("mel.algorithm") == "grpo" and all(
            self.config.get(name, value) == value for name, value in PAPER_OBJECTIVE.items()
        )

    @property
    def template(self) -> str:
        """The question's template as `--template` takes it.

        Raises:
            UserError: the run used upstream's `data.input_template`, which is not a file.
        """
        if self.config.get("data.input_template"):
            raise UserError(
                f"--run {self.folder}: it was trained with data.input_template {self.config['data.input_template']!r}; "
                "write that into a file, with {{question}} in the place of {}, and pass the file as --template"
            )
        return self.config.get("mel.template_dir") or "default"

    def place(self, name: str, default: str) -> Path:
        """The place where the run wrote `name`. A path inside the run's folder is resolved in it, also after a move."""
        recorded = Path(self.config.get(name) or self.folder / default)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return self.folder / recorded.relative_to(self.config["mel.run_dir"])
        return recorded

    @property
    def final(self) -> Path:
        """The place of the final model after training."""
        folder = self.place("ckpt.output_dir", FINAL)
        return folder.with_name(FINAL) if folder.name == f"{FINAL}.partial" else folder

    @property
    def last_step(self) -> int | None:
        """The step of the last line of the run's metrics."""
        steps = [row["step"] for row in disk.read_lines(self.folder / records.METRICS) if "step" in row]
        return steps[-1] if steps else None


def read_run(folder: Path) -> Run:
    """Raises UserError for a folder that is not a training run's."""
    if not folder.is_dir():
        raise UserError(f"--run {folder}: no such folder; expected the mel.run_dir of a training run")
    manifest = json_or_none(folder / records.MANIFEST)
    config = manifest.get("config") if isinstance(manifest, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("actor.model_name_or_path"), str):
        raise UserError(
            f"--run {folder}: no {records.MANIFEST} of a training run in it; pass a model's own folder as --model"
        )
    return Run(folder.absolute(), config)
