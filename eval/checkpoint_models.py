"""The checkpoints of a training run that can be evaluated, whole or damaged.

A run folder holds up to three kinds: DeepSpeed checkpoints (`checkpoints/_actor/<tag>`), exports in Hugging Face's format
(`model`, `checkpoints/<tag>_hf`), and with LoRA the same exports as adapters. Finding them reads names, sizes and the
ends of files; nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eval.checkpoint_files import deepspeed_problem, export_problem
from eval.training_run import FINAL, Run, read_run
from openrlhf_mel.errors import UserError
from openrlhf_mel.run.checkpoint import step_of

Kind = Literal["model", "adapter", "deepspeed"]


@dataclass(frozen=True)
class CheckpointModel:
    """A state of the policy that can be evaluated.

    Attributes:
        label: the tag, or `model` for the final model. Safe as a file's name.
        step: of training; None for a final model without metrics.
        source: the folder that holds it.
        kind: what `source` is: a model, a LoRA adapter, or DeepSpeed's shards.
        problem: why it cannot be evaluated; None when it looks whole.
    """

    label: str
    step: int | None
    source: Path
    kind: Kind
    run: Run = field(repr=False, compare=False)
    problem: str | None = None

    @property
    def best(self) -> bool:
        """Whether it was kept as the best by the run's metric."""
        return self.label.startswith("best_")


def find(run_dir: Path) -> list[CheckpointModel]:
    """All checkpoints in the run's folder, also incomplete ones: by step, the final model last.

    A tag with both an export and DeepSpeed's shards is listed once, as the export: it needs no conversion.

    Raises:
        UserError: not a run's folder, or nothing in it to evaluate.
    """
    run = read_run(run_dir)
    folder = run.place("ckpt.path", "checkpoints")
    found: dict[str, CheckpointModel] = {}
    for path in _folders(folder / "_actor"):
        step = step_of(path.name)
        if step is not None:
            found[path.name] = CheckpointModel(path.name, step, path, "deepspeed", run, deepspeed_problem(path))
    for path in _folders(folder):
        tag = path.name.removesuffix("_hf")
        if tag != path.name and (step := step_of(tag)) is not None:
            export = _export(tag, step, path, run)
            if export.problem is None or tag not in found:
                found[tag] = export
    ordered = sorted(found.values(), key=lambda c: (c.step, c.best))  # in the order of saving
    if run.final.is_dir():
        ordered.append(_export(FINAL, run.last_step, run.final, run))
    if not ordered:
        raise UserError(
            f"--run {run_dir}: holds no model and no checkpoint: the run has not finished, and saved none on the way; "
            "ckpt.save_steps makes training save one every so many steps"
        )
    return ordered


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _export(label: str, step: int | None, folder: Path, run: Run) -> CheckpointModel:
    kind: Kind = "adapter" if (folder / "adapter_config.json").is_file() else "model"
    return CheckpointModel(label, step, folder, kind, run, export_problem(folder))
