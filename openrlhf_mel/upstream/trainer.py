"""The trainer: upstream's loop, which hands each rollout's kept meta-experiences to the actors and keeps the run's log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer
from openrlhf.utils.logging_utils import init_logger

from openrlhf_mel import metrics, runlog
from openrlhf_mel.experience import shuffle_experiences
from openrlhf_mel.internalization import Row
from openrlhf_mel.upstream import samples

logger = init_logger(__name__)
_UpstreamTrainer = ppo_trainer.PPOTrainer.__ray_metadata__.modified_class


class MELTrainer(_UpstreamTrainer):
    """A step reads like the paper: rollout, pair, construct and replay (by the generator), then internalize."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mel = self.args.mel
        self.run_dir = Path(self.mel.run_dir)
        self._mel_metrics: dict[str, float] = {}
        self._empty_steps = 0
        self._started = time.monotonic()

    def init_checkpoint_states(self) -> dict[str, Any]:
        """Upstream's; the run's log is cut back to the step that was restored."""
        states = super().init_checkpoint_states()
        self.samples_generator.step = states["global_step"]
        for name in (runlog.METRICS, runlog.ARCHIVE):
            if (self.run_dir / name).exists():
                runlog.keep_up_to(self.run_dir / name, states["global_step"])
        return states

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """One rollout's update: D_M* goes to every actor, then upstream's step, which learns it (Eq. 9)."""
        groups, candidates = samples.collect(rollout_samples)
        kept = [m for m in candidates if m.kept]
        if self.mel.experience == "shuffled":
            kept = shuffle_experiences(kept, self.mel.seed, global_step)
        rows = [Row(m.context_ids, m.token_ids, m.group.question) for m in kept]
        ray.get(self.actor_model_group.async_run_method("take_rows", rows=rows))
        status, next_step = super().train_step(rollout_samples, global_step)
        scores = [t.score or 0.0 for g in groups for t in g.trajectories]
        self._mel_metrics = {
            "reward_mean": sum(scores) / len(scores),
            "rollout/tokens": sum(len(t.token_ids) for g in groups for t in g.trajectories),
        }
        if self.mel.enable:
            self._mel_metrics |= metrics.step_metrics(groups, candidates, self.mel.correct_at)
            self._warn_when_empty(candidates, next_step)
        runlog.append_lines(self.run_dir / runlog.ARCHIVE, (runlog.archive_row(m, next_step) for m in candidates))
        return status, next_step

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict | None = None, client_states: dict | None = None
    ) -> None:
        """Upstream's, with MEL's metrics added, and a line of `metrics.jsonl`."""
        logs = dict(logs_dict or {}) | self._mel_metrics
        # Only now: upstream has summed every `timing/` up, and construction is within its generation.
        if self.mel.enable:
            logs["timing/mel_construction"] = self.samples_generator.construction_s
            logs["timing/mel_construction_tail"] = self.samples_generator.construction_tail_s
        numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        row = {"step": global_step, **numbers, "seconds": time.monotonic() - self._started}
        runlog.append_lines(self.run_dir / runlog.METRICS, [row])
        super().save_logs_and_checkpoints(global_step, logs, client_states)

    def _warn_when_empty(self, candidates: list[Any], step: int) -> None:
        self._empty_steps = 0 if any(m.kept for m in candidates) else self._empty_steps + 1
        if self._empty_steps and self._empty_steps % self.mel.warn_after_empty_steps == 0:
            counts = {k.removeprefix("mel/"): v for k, v in self._mel_metrics.items() if k.startswith("mel/") and v}
            message = f"step {step}: no meta-experience was kept for {self._empty_steps} steps; this step: {counts}"
            logger.warning(message)
            runlog.append_lines(self.run_dir / "logs" / "warnings.jsonl", [{"step": step, "warning": message}])


RemoteMELTrainer = ray.remote(MELTrainer)
