"""Which of a run's checkpoints `--checkpoints` asks for."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from eval.checkpoint_models import CheckpointModel
from eval.training_run import FINAL
from openrlhf_mel.errors import UserError


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
