"""The trainer: upstream's loop, which hands each rollout's kept meta-experiences to the actors and keeps the run's log."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer
from openrlhf.utils.logging_utils import init_logger

from openrlhf_mel.errors import Stopped
from openrlhf_mel.method import metrics, mismatch
from openrlhf_mel.method.experience import Group, MetaExperience, shuffle_experiences
from openrlhf_mel.method.guard import CollapseGuard
from openrlhf_mel.method.nll_loss import Row
from openrlhf_mel.method.schedule import nll_coefficient
from openrlhf_mel.run import checkpoint, records
from openrlhf_mel.settings import batches
from openrlhf_mel.upstream import gradients, rollout_log_probs, samples_generator

logger = init_logger(__name__)
_UpstreamTrainer = ppo_trainer.PPOTrainer.__ray_metadata__.modified_class
_STATES = ("episode", "global_step", "total_consumed_prompts", "data_loader_state_dict")  # upstream's, in a checkpoint


class MELSteps:
    """What MEL adds to each of upstream's trainers, the synchronous and the asynchronous one.

    A step reads like the paper: rollout, pair, construct and replay (by the generator), then internalize.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mel = self.args.mel
        self.run_dir = Path(self.mel.run_dir)
        self._mel_metrics: dict[str, float] = {}
        self._empty_steps = 0
        self._expected_steps = 1
        self._guard = CollapseGuard(self.mel.guard_window)
        self._recent = metrics.RecentTexts(self.mel.guard_window)
        self._started = time.monotonic()
        self._unsaved: tuple[int, dict] | None = None  # the last step, and what a checkpoint needs of it
        self._evaluations: dict[int, dict[str, float]] = {}  # by step

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Upstream's; when a stop is asked for, the last whole step is saved before it ends."""
        try:
            super().fit(*args, **kwargs)
        except Stopped:
            self._save_unsaved()
            (self.run_dir / records.STOPPED).touch()
            (self.run_dir / records.STOP).unlink(missing_ok=True)
            raise

    def init_checkpoint_states(self) -> dict[str, Any]:
        """Upstream's; the run's log is cut back to the step that was restored, and what watches the run has read it."""
        states = super().init_checkpoint_states()
        for name in (records.METRICS, records.EVALUATIONS, records.ARCHIVE, records.WARNINGS):
            if (self.run_dir / name).exists():
                records.keep_up_to(self.run_dir / name, states["global_step"])
        for row in records.read_lines(self.run_dir / records.METRICS):
            self._guard.observe(row)
            self._count_empty(row.get("mel/kept", 0))
        kept = (row for row in records.read_lines(self.run_dir / records.ARCHIVE) if row["kept"])
        for _, rows in itertools.groupby(kept, lambda row: row["step"]):
            self._recent.new_share([row["text"] for row in rows])
        self._evaluations = {row.pop("step"): row for row in records.read_lines(self.run_dir / records.EVALUATIONS)}
        if (states["data_loader_state_dict"] or {}).get("_iterator_finished"):
            # Saved when a last, short draw had found the data's end: a loader in this state starts over, with the next
            # episode's order, while upstream has noted the old episode.
            states["episode"] += 1
        if best := checkpoint.best(Path(self.args.ckpt.path) / "_actor"):
            # A step's own checkpoint is written before its evaluation, and does not know of a best that this has made.
            states["best_eval_metric_value"] = max(best.metric, states.get("best_eval_metric_value", best.metric))
        self._restored = {name: states[name] for name in _STATES}  # and not what DeepSpeed keeps beside them
        self._warn_of_settings(states["global_step"])
        return states

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """One rollout's update: D_M* goes to every actor, then upstream's step, which learns it (Eq. 9)."""
        step = global_step + 1
        groups, candidates = samples_generator.collect(rollout_samples)
        infos = samples_generator.rollout_infos(rollout_samples)
        self._expected_steps = max([self._expected_steps, *(info.steps for info in infos)])
        coefficient = nll_coefficient(self.mel, step, self._expected_steps)
        whole = batches.whole(rollout_samples, self.args)
        used, learnable = samples_generator.collect(whole)
        status: dict[str, Any] = {}
        if whole:
            kept = [m for m in learnable if m.kept]
            rows = self._rows(kept, global_step)
            ray.get(self.actor_model_group.async_run_method("take_rows", rows=rows, coefficient=coefficient))
            status, step = super().train_step(whole, global_step)
            if coefficient:
                self._warn_when_unlearned(len(kept), len(rows), status, step)
        self._warn_when_uneven(len(groups), len(used), step)
        self._mel_metrics = self._step_metrics(groups, candidates, status)
        self._mel_metrics["rollout/groups_left_out"] = len(groups) - len(used)
        if self.mel.enable:
            self._mel_metrics |= {
                "mel/nll_coef": coefficient,
                "timing/mel_construction": sum(info.construction_s for info in infos),
                "timing/mel_construction_tail": sum(info.construction_tail_s for info in infos),
            }
            if whole and self.mel.experience == "shuffled":
                self._mel_metrics["mel/shuffled_left_out"] = len(kept) - len(rows)
            self._warn_when_empty(candidates, step)
        records.append_lines(self.run_dir / records.ARCHIVE, (records.archive_row(m, step) for m in candidates))
        return status, step

    def _compute_rollout_stats(self, experiences: list[Any]) -> dict[str, float]:
        """Upstream's, and how far engine and policy are apart: over the rollout of all ranks, before its first update."""
        stats = super()._compute_rollout_stats(experiences)
        if rollout_log_probs.measured(self.mel, self.args.rollout.top_p):
            stats |= mismatch.mismatch(
                (e.rollout_log_probs, e.action_log_probs, e.action_mask)
                for e in experiences
                if e.rollout_log_probs is not None  # an agent of the user's own may bring none
            )
        return stats

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict | None = None, client_states: dict | None = None
    ) -> None:
        """Upstream's, with MEL's metrics added, and a line of `metrics.jsonl`."""
        logs = dict(logs_dict or {}) | self._mel_metrics
        numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        row = {"step": global_step, **numbers, "seconds": time.monotonic() - self._started}
        records.append_lines(self.run_dir / records.METRICS, [row])
        for warning in self._guard.observe(row):
            self._warn(global_step, warning)
        super().save_logs_and_checkpoints(global_step, logs, client_states)
        self._unsaved = (global_step, client_states or {}) if global_step % self.args.ckpt.save_steps else None
        if (self.run_dir / records.STOP).exists():
            raise Stopped

    def save_best_checkpoint(
        self, eval_metrics: dict[str, float], global_step: int, client_states: dict | None = None
    ) -> None:
        """Upstream's, after every evaluation, which also leaves a line of `evaluations.jsonl`."""
        if global_step not in self._evaluations:
            self._evaluations[global_step] = eval_metrics
            records.append_lines(self.run_dir / records.EVALUATIONS, [{"step": global_step, **eval_metrics}])
        super().save_best_checkpoint(eval_metrics, global_step, client_states)

    def _save_unsaved(self) -> None:
        if self._unsaved is None:
            return
        step, client_states = self._unsaved
        # Upstream's own saving, with what it adds to the states, at a step at which it would not save or log.
        self.args.ckpt.save_steps, self.args.logger.logging_steps = 1, float("inf")
        super().save_logs_and_checkpoints(step, {}, client_states)

    def _rows(self, kept: list[MetaExperience], global_step: int) -> list[Row]:
        if self.mel.experience == "shuffled":
            kept = shuffle_experiences(kept, self.mel.seed, global_step)
        return [Row(m.context_ids, m.token_ids, m.group.question) for m in kept]

    def _step_metrics(
        self, groups: list[Group], candidates: list[MetaExperience], status: dict[str, Any]
    ) -> dict[str, float]:
        scores = [t.score for g in groups for t in g.trajectories]
        found = {"rollout/tokens": sum(len(t.token_ids) for g in groups for t in g.trajectories)}
        if any(score is not None for score in scores):
            found["reward_mean"] = sum(score or 0.0 for score in scores) / len(scores)
        elif "rollout/reward_mean" in status:  # a reward model scores after sampling
            found["reward_mean"] = status["rollout/reward_mean"]
        if self.mel.enable:
            found |= metrics.step_metrics(groups, candidates, self.mel.correct_at)
            share = self._recent.new_share([m.text for m in candidates if m.kept])
            if share is not None:
                found["mel/new_share"] = share
        return found

    def _warn_of_settings(self, global_step: int) -> None:
        """Once a run: what the settings leave unwatched, and what they ask for in vain."""
        if global_step or any(row["step"] == 0 for row in records.read_lines(self.run_dir / records.WARNINGS)):
            return
        if self.mel.enable and (reason := gradients.without_norms(self.args)):
            self._warn(
                0,
                f"the two losses' gradient norms are not logged, and whether one swamps the other is not watched: {reason}",
            )
        top_p = self.args.rollout.top_p
        if self.mel.measure_mismatch and not rollout_log_probs.measured(self.mel, top_p):
            self._warn(
                0,
                f"the engine's log-probs are not compared with the policy's: with --rollout.top_p {top_p:g} they are over "
                "the tokens that top-p leaves, the policy's over all",
            )
        if self.mel.runtime == "cpu" and self.args.vllm.enable_sleep:
            self._warn(0, "--vllm.enable_sleep frees no memory with --mel.runtime cpu: the engines sleep in name only")

    def _count_empty(self, kept: int) -> None:
        self._empty_steps = 0 if kept else self._empty_steps + 1

    def _warn_when_empty(self, candidates: list[MetaExperience], step: int) -> None:
        self._count_empty(sum(m.kept for m in candidates))
        if self._empty_steps and self._empty_steps % self.mel.warn_after_empty_steps == 0:
            counts = {k.removeprefix("mel/"): v for k, v in self._mel_metrics.items() if k.startswith("mel/") and v}
            self._warn(
                step,
                f"step {step}: no meta-experience was kept for {self._empty_steps} steps; this step: {counts}",
            )

    def _warn_when_uneven(self, groups: int, used: int, step: int) -> None:
        if used < groups:
            self._warn(
                step,
                f"step {step}: {groups - used} of {groups} questions were left out, with their meta-experiences: the "
                "rollout is the end of the data, and does not divide over the policy's ranks and micro-batches",
            )

    def _warn_when_unlearned(self, kept: int, rows: int, status: dict[str, Any], step: int) -> None:
        learned = status.get("mel/learned", 0)
        if learned < kept:
            why = (
                "no optimizer step was made"
                if learned < rows
                else "one question has more than half of them, so that not each can learn another's (mel.experience: shuffled)"
            )
            self._warn(step, f"step {step}: {kept - learned} of {kept} kept meta-experiences were not learned: {why}")

    def _warn(self, step: int, message: str) -> None:
        logger.warning(message)
        records.append_lines(self.run_dir / records.WARNINGS, [{"step": step, "warning": message}])


class MELTrainer(MELSteps, _UpstreamTrainer):
    """Upstream's synchronous trainer."""

    def init_checkpoint_states(self) -> dict[str, Any]:
        """As for every trainer; the generator counts on from the step that was restored."""
        states = super().init_checkpoint_states()
        self.samples_generator.step = states["global_step"]
        return states

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """As for every trainer; an evaluation, or its best checkpoint, that a kill has prevented is made up for first."""
        due = self.eval_dataloader is not None and global_step and not global_step % self.args.eval.steps
        if due and global_step == self._restored["global_step"]:
            found = self._evaluations.get(global_step)
            if found is None:
                sampling = {name: getattr(self.args.eval, name) for name in ("temperature", "n_samples_per_prompt")}
                found = self.evaluate(global_step, **(self.generate_kwargs | sampling))
            self.save_best_checkpoint(found, global_step, dict(self._restored))
        return super().train_step(rollout_samples, global_step)


RemoteMELTrainer = ray.remote(MELTrainer)
