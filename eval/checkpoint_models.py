"""The checkpoints of a training run: found, chosen, and each turned into a model folder that transformers loads.

A run folder holds up to three kinds: DeepSpeed checkpoints (`checkpoints/_actor/<tag>`), exports in Hugging Face's format
(`model`, `checkpoints/<tag>_hf`), and with LoRA the same exports as adapters. Finding and choosing read names, sizes and
the ends of files; nothing is unpickled before `materialise` (see `eval.conversion` for what is trusted).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eval.checkpoint_files import deepspeed_problem, export_problem
from eval.training_run import FINAL, Run, read_run
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from openrlhf_mel.run.checkpoint import step_of
from toolkit.outputs import json_or_none

MARKER = "converted_from.json"
_FORMAT = 1  # version of a converted folder; incremented when the conversion changes its output
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

    def fingerprint(self) -> str:
        """A hash of the checkpoint's files (names, sizes, times) and of all else on which a conversion depends."""
        files = sorted(path for path in self.source.rglob("*") if path.is_file())
        stats = [(str(path.relative_to(self.source)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        lora = {name: value for name, value in self.run.config.items() if name.startswith("ds.lora.")}
        content = json.dumps([_FORMAT, self.label, self.kind, self.run.base, lora, stats], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


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


def select(
    checkpoints: list[CheckpointModel], text: str, say: Callable[[str], None] | None = None
) -> list[CheckpointModel]:
    """The checkpoints that `text` asks for, in their order: `all`, `best`, `last`, steps, or several with commas between.

    Several of one step have the same weights, so one is taken: the final model, else the plain tag. `all` and `last`
    skip damaged ones with a warning.

    Args:
        say: called with a line for each warning or note; by default it prints to standard error.

    Raises:
        UserError: naming the request, why it cannot be fulfilled, and the checkpoints that exist.
    """
    say = say or (lambda line: print(line, file=sys.stderr))
    whole = [c for c in checkpoints if c.problem is None]
    chosen: list[CheckpointModel] = []
    for part in dict.fromkeys(part.strip() for part in text.split(",")):
        if part in ("all", "last"):
            passed_over = _passed_over(checkpoints, part)
            for c in passed_over:
                say(f"warning: checkpoint {c.label} is left out: {c.problem}")
            if not whole:
                raise UserError(f"--checkpoints {part}: none is whole; {_problems(checkpoints)}")
            chosen += _one_a_step(whole, say) if part == "all" else whole[-1:]
        elif part == "best":
            chosen.append(_best(checkpoints))
        elif re.fullmatch(r"\d{1,18}", part):
            chosen.append(_of_step(checkpoints, int(part)))
        else:
            raise UserError(
                f"--checkpoints {text}: found {part!r}, expected all, best, last, or steps; {_there(whole)}"
            )
    chosen = [c for c in whole if c in chosen]
    if chosen[0].run.config.get("train.enable_ema") and len({c.kind == "deepspeed" for c in chosen}) == 2:
        say(
            "warning: train.enable_ema: the final model and exports are the moving average of the weights, DeepSpeed's "
            "checkpoints the weights themselves; their rows do not compare"
        )
    return chosen


def materialise(checkpoint: CheckpointModel, folder: Path) -> Path:
    """A folder with the checkpoint as a model that transformers loads: weights, configurations and tokenizer.

    An export is used directly. Anything else is converted, atomically, into `folder/<label>`, which is used again while
    the checkpoint is unchanged. Conversions into one folder wait for each other.

    Raises:
        UserError: a damaged checkpoint, weights that do not fit the base model, too little room on the disk.
    """
    if checkpoint.problem is not None:
        raise UserError(f"checkpoint {checkpoint.label}: {checkpoint.problem}")
    if checkpoint.kind == "model":
        return checkpoint.source
    target = folder / checkpoint.label
    mark = {"fingerprint": checkpoint.fingerprint(), "source": str(checkpoint.source), "step": checkpoint.step}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            found = json_or_none(target / MARKER)
            if not isinstance(found, dict):
                raise UserError(f"{target}: there already, and not made by this command; move it away")
            if found.get("fingerprint") == mark["fingerprint"] and export_problem(target) is None:
                return target
            _discard(target)
        partial = _aside(target)
        shutil.rmtree(partial, ignore_errors=True)  # from a killed process: we hold the lock
        try:
            _convert(checkpoint, partial)
            disk.write_json(partial / MARKER, mark)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextlib.contextmanager
def materialised(checkpoint: CheckpointModel, folder: Path, keep: bool = True) -> Iterator[Path]:
    """`materialise`, and with `keep` false the converted folder is removed afterwards. The run's own files never are."""
    path = materialise(checkpoint, folder)
    try:
        yield path
    finally:
        if not keep and path != checkpoint.source:
            _discard(path)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _discard(target: Path) -> None:
    """Remove a converted folder; after a kill no part of it has its name."""
    shutil.rmtree(_aside(target), ignore_errors=True)
    os.replace(target, _aside(target))
    shutil.rmtree(_aside(target))


def _convert(checkpoint: CheckpointModel, target: Path) -> None:
    try:
        from eval import conversion  # imports torch, transformers and DeepSpeed, which takes many seconds
    except ImportError as error:
        raise UserError(
            f"checkpoint {checkpoint.label}: converting it takes the trainer's packages ({error}); install requirements.txt"
        ) from None
    if checkpoint.kind == "adapter":
        conversion.from_adapter(checkpoint.source, checkpoint.run, target)
    else:
        conversion.from_deepspeed(checkpoint.source, checkpoint.run, target)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _export(label: str, step: int | None, folder: Path, run: Run) -> CheckpointModel:
    kind: Kind = "adapter" if (folder / "adapter_config.json").is_file() else "model"
    return CheckpointModel(label, step, folder, kind, run, export_problem(folder))


def _passed_over(checkpoints: list[CheckpointModel], part: str) -> list[CheckpointModel]:
    """The damaged checkpoints that `all`, or `last`, skips."""
    whole = [i for i, c in enumerate(checkpoints) if c.problem is None]
    start = whole[-1] if whole and part == "last" else 0
    return [c for c in checkpoints[start:] if c.problem is not None]


def _one_a_step(whole: list[CheckpointModel], say: Callable[[str], None]) -> list[CheckpointModel]:
    kept: dict[Any, CheckpointModel] = {}
    for c in whole:
        other = kept.get(c.step)
        if other is None or c.step is None:
            kept[c.step] = c
            continue
        kept[c.step] = winner = _preferred([other, c])
        loser = c if winner is other else other
        say(f"note: {loser.label} is of the same step as {winner.label}, which is evaluated for both")
    return [c for c in whole if c in kept.values()]


def _preferred(same_step: list[CheckpointModel]) -> CheckpointModel:
    return min(same_step, key=lambda c: (c.problem is not None, c.label != FINAL, c.best))


def _best(checkpoints: list[CheckpointModel]) -> CheckpointModel:
    best = [c for c in checkpoints if c.best]
    if not best:
        raise UserError(
            "--checkpoints best: the run kept no best checkpoint; training keeps one when ckpt.best_metric_key names an "
            "evaluation's metric (eval_<datasource>_pass1; give eval.dataset a validation split, and eval.steps); "
            f"{_there(checkpoints)}"
        )
    whole = [c for c in best if c.problem is None]
    if not whole:
        raise UserError(f"--checkpoints best: not whole; {_problems(best)}")
    return whole[-1]  # each best is better than the earlier ones


def _of_step(checkpoints: list[CheckpointModel], step: int) -> CheckpointModel:
    candidates = [c for c in checkpoints if c.step == step]
    if not candidates:
        raise UserError(f"--checkpoints {step}: the run has no checkpoint of this step; {_there(checkpoints)}")
    chosen = _preferred(candidates)
    if chosen.problem is not None:
        raise UserError(f"--checkpoints {step}: not whole; {_problems(candidates)}")
    return chosen


def _problems(checkpoints: list[CheckpointModel]) -> str:
    return "; ".join(f"{c.label}: {c.problem}" for c in checkpoints if c.problem is not None)


def _there(checkpoints: list[CheckpointModel]) -> str:
    listed = ", ".join(f"{c.step} ({c.label})" for c in checkpoints) or "none"
    return f"there are: {listed}"
