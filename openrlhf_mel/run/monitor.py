"""A run's monitor: what its folder keeps of every step, and the warnings that come of it. No Ray, no OpenRLHF."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_mel import disk
from openrlhf_mel.method import metrics
from openrlhf_mel.method.group_record import GroupRecord, constructed
from openrlhf_mel.method.guard import CollapseGuard
from openrlhf_mel.run import records
from openrlhf_mel.settings.mel_options import MELConfig


@dataclass(frozen=True)
class Update:
    """A rollout and what was learned of it.

    Attributes:
        made: records of all groups of the rollout.
        used: of those that were trained on.
        rows: Ms that the policy was given to learn.
        coefficient: of R_MEL.
        status: what the trainer reports; empty where nothing was trained on.
    """

    made: Sequence[GroupRecord]
    used: Sequence[GroupRecord]
    rows: int
    coefficient: float
    status: Mapping[str, Any]

    @property
    def kept(self) -> int:
        """Kept Ms of the groups that were trained on, and of earlier rollouts."""
        return sum(m.kept for m in constructed(self.used))


class RunMonitor:
    """Writes `metrics.jsonl`, `meta_experiences.jsonl`, `evaluations.jsonl` and `logs/warnings.jsonl`; warns.

    Its state follows from these files, so a resumed run is where it was after `restore`. Steps count from 1; step 0 is
    the run's beginning.

    Attributes:
        evaluations: each step's metrics.
    """

    def __init__(self, config: MELConfig, folder: Path, say: Callable[[str], object]) -> None:
        """`folder` is the run's; `say` shows a warning to the user, besides its line in the file."""
        self.config, self.folder = config, folder
        self.evaluations: dict[int, dict[str, float]] = {}
        self._say = say
        self._guard = CollapseGuard(config.guard_window)
        self._recent = metrics.RecentTexts(config.guard_window)
        self._empty_steps = 0  # the last steps, in a row, without a kept M
        self._update_metrics: dict[str, float] = {}
        self._started = time.monotonic()

    def restore(self, step: int) -> None:
        """Cut the run's files back to `step`, and read in them what went before."""
        for name in (records.METRICS, records.EVALUATIONS, records.ARCHIVE, records.WARNINGS):
            if (self.folder / name).exists():
                records.keep_up_to(self.folder / name, step)
        for row in disk.read_lines(self.folder / records.METRICS):
            self._guard.observe(row)
            self._count_empty(row)
        kept = (row for row in disk.read_lines(self.folder / records.ARCHIVE) if row["kept"])
        for _, rows in itertools.groupby(kept, lambda row: row["step"]):
            self._recent.new_share([row["text"] for row in rows])
        self.evaluations = {row.pop("step"): row for row in disk.read_lines(self.folder / records.EVALUATIONS)}

    def begin(self, step: int, notes: Iterable[str]) -> None:
        """Warn of `notes`, once a run: not when it goes on after `step`, nor when it was killed in its first step."""
        warned = any(row["step"] == 0 for row in disk.read_lines(self.folder / records.WARNINGS))
        if not step and not warned:
            for note in notes:
                self._warn(0, note)

    def record_update(self, step: int, update: Update) -> None:
        """Archive the rollout's Ms; the update's metrics go into the line of `record_step`."""
        if update.coefficient:
            self._warn_when_unlearned(step, update)
        self._warn_when_uneven(step, len(update.made), len(update.used))
        self._update_metrics = self._metrics_of(update)
        candidates = constructed(update.made)
        if self.config.enable:
            self._warn_when_empty(step)
        disk.append_lines(self.folder / records.ARCHIVE, (records.archive_row(m, step) for m in candidates))

    def record_step(self, step: int, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Write the step's line of `metrics.jsonl` and warn of what the guard sees. Returns `logs` with MEL's metrics."""
        logs = dict(logs) | self._update_metrics
        numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        row = {"step": step, **numbers, "seconds": time.monotonic() - self._started}
        disk.append_lines(self.folder / records.METRICS, [row])
        for warning in self._guard.observe(row):
            self._warn(step, warning)
        return logs

    def record_evaluation(self, step: int, evaluation: dict[str, float]) -> None:
        """Write a line of `evaluations.jsonl`; a step's first evaluation is the one that counts."""
        if step not in self.evaluations:
            self.evaluations[step] = evaluation
            disk.append_lines(self.folder / records.EVALUATIONS, [{"step": step, **evaluation}])

    def _metrics_of(self, update: Update) -> dict[str, float]:
        groups = [record.group for record in update.made]
        candidates = constructed(update.made)
        values = metrics.rollout_metrics(groups, update.status.get("rollout/reward_mean"))
        values["rollout/groups_left_out"] = len(update.made) - len(update.used)
        infos = [record.rollout for record in update.made if record.rollout]
        idle = [info.idle for info in infos if info.idle is not None]
        if idle:
            values["timing/generation_idle"] = sum(idle) / len(idle)
        if not self.config.enable:
            return values
        values |= metrics.step_metrics(groups, candidates, self.config.correct_at)
        share = self._recent.new_share([m.text for m in candidates if m.kept])
        if share is not None:
            values["mel/new_share"] = share
        values |= {
            "mel/nll_coef": update.coefficient,
            "mel/carried_over": sum(info.carried_over for info in infos),
            "mel/rewritten_tokens": sum(info.rewritten_tokens for info in infos),
            "timing/mel_construction": sum(info.construction_s for info in infos),
            "timing/mel_construction_tail": sum(info.construction_tail_s for info in infos),
            "timing/carried_wait": sum(info.carried_wait_s for info in infos),
        }
        if values["rollout/tokens"]:
            own = values["mel/tokens"] + values["mel/rewritten_tokens"]
            values["mel/overhead"] = own / values["rollout/tokens"]
        if update.used and self.config.experience == "shuffled":
            values["mel/shuffled_left_out"] = update.kept - update.rows
        return values

    def _count_empty(self, row: Mapping[str, Any]) -> None:
        """Count a step without a kept M, but not one whose constructions all go on: the first one, or nearly so."""
        if row.get("mel/candidates", 0) or not row.get("mel/carried_over", 0):
            self._empty_steps = 0 if row.get("mel/kept", 0) else self._empty_steps + 1

    def _warn_when_empty(self, step: int) -> None:
        self._count_empty(self._update_metrics)
        if self._empty_steps and self._empty_steps % self.config.warn_after_empty_steps == 0:
            counts = {k.removeprefix("mel/"): v for k, v in self._update_metrics.items() if k.startswith("mel/") and v}
            self._warn(
                step,
                f"step {step}: no meta-experience was kept for {self._empty_steps} steps; this step: {counts}",
            )

    def _warn_when_uneven(self, step: int, groups: int, used: int) -> None:
        if used < groups:
            self._warn(
                step,
                f"step {step}: {groups - used} of {groups} questions were left out, with their meta-experiences: the "
                "rollout is the end of the data, and does not divide over the policy's ranks and micro-batches",
            )

    def _warn_when_unlearned(self, step: int, update: Update) -> None:
        learned = update.status.get("mel/learned", 0)
        if learned < update.kept:
            why = (
                "no optimizer step was made"
                if learned < update.rows
                else "one question has more than half of them, so that not each can learn another's (mel.experience: shuffled)"
            )
            self._warn(
                step,
                f"step {step}: {update.kept - learned} of {update.kept} kept meta-experiences were not learned: {why}",
            )

    def _warn(self, step: int, message: str) -> None:
        self._say(message)
        disk.append_lines(self.folder / records.WARNINGS, [{"step": step, "warning": message}])
