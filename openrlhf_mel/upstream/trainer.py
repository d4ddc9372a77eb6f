"""The trainer: upstream's loop, which also sends each rollout's kept Ms to the actors and writes the run's records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer
from openrlhf.utils.logging_utils import init_logger

from openrlhf_mel.errors import Stopped
from openrlhf_mel.method import mismatch
from openrlhf_mel.method.experience import MetaExperience
from openrlhf_mel.method.group_record import constructed
from openrlhf_mel.method.nll_plan import Row
from openrlhf_mel.method.schedule import nll_coefficient
from openrlhf_mel.method.shuffled import shuffle_experiences
from openrlhf_mel.run import carried_experiences, checkpoint, records
from openrlhf_mel.run.monitor import RunMonitor, Update
from openrlhf_mel.settings import batches
from openrlhf_mel.upstream import group_sample, rollout_log_probs
from openrlhf_mel.upstream.dataset import QuestionDataset
from openrlhf_mel.upstream.samples_generator import MetaExperienceGenerator
from openrlhf_mel.upstream.unwatched import unwatched

logger = init_logger(__name__)
_UpstreamTrainer: Any = ppo_trainer.PPOTrainer.__ray_metadata__.modified_class
_STATES = ("episode", "global_step", "total_consumed_prompts", "data_loader_state_dict")  # upstream's, in a checkpoint

_Steps: Any = object  # what `MELSteps` extends: one of upstream's trainers, which have no types


class MELSteps(_Steps):
    """What MEL adds to both of upstream's trainers, the synchronous and the asynchronous one.

    A step follows the paper: rollout, pair, construct and replay (in the generator), then internalize.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mel = self.args.mel
        self.run_dir = Path(self.mel.run_dir)
        self.monitor = RunMonitor(self.mel, self.run_dir, logger.warning)
        self._expected_steps = 1
        self._unsaved: tuple[int, dict] | None = None  # the last step, and its states for a checkpoint

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """As upstream's; when a stop is requested, the last whole step is saved first."""
        try:
            super().fit(*args, **kwargs)
        except Stopped:
            self._save_unsaved()
            (self.run_dir / records.STOPPED).touch()
            (self.run_dir / records.STOP).unlink(missing_ok=True)
            raise

    def init_checkpoint_states(self) -> dict[str, Any]:
        """As upstream's; cuts the run's records back to the restored step, and feeds them to guard and counters."""
        states = super().init_checkpoint_states()
        self.monitor.restore(states["global_step"])
        if (states["data_loader_state_dict"] or {}).get("_iterator_finished"):
            # Saved after the episode's last, short draw. A loader in this state starts over with the next episode's
            # order, but upstream has stored the old episode's number.
            states["episode"] += 1
        if best := checkpoint.best(Path(self.args.ckpt.path) / "_actor"):
            # A step's checkpoint is written before its evaluation, so it does not contain a new best value from it.
            states["best_eval_metric_value"] = max(best.metric, states.get("best_eval_metric_value", best.metric))
        self._restored = {name: states[name] for name in _STATES}  # without DeepSpeed's own entries
        self.monitor.begin(states["global_step"], unwatched(self.args))
        return states

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """One rollout's update: send D_M* to every actor, then run upstream's step, which learns it (Eq. 9)."""
        step, status = global_step + 1, {}
        made = group_sample.records_of(rollout_samples)
        self._expected_steps = max([self._expected_steps, *(r.rollout.steps for r in made if r.rollout)])
        coefficient = nll_coefficient(self.mel, step, self._expected_steps)
        whole = batches.whole(rollout_samples, self.args)
        used = group_sample.records_of(whole)
        rows = self._rows([m for m in constructed(used) if m.kept], global_step)
        if whole:
            ray.get(self.actor_model_group.async_run_method("take_rows", rows=rows, coefficient=coefficient))
            status, step = super().train_step(whole, global_step)
        self.monitor.record_update(step, Update(made, used, len(rows), coefficient, status))
        return status, step

    def _rows(self, kept: list[MetaExperience], steps_before: int) -> list[Row]:
        if self.mel.experience == "shuffled":
            kept = shuffle_experiences(kept, self.mel.seed, steps_before)
        return [Row(m.context_ids, m.token_ids, m.group.question) for m in kept]

    def _compute_rollout_stats(self, experiences: list[Any]) -> dict[str, float]:
        """As upstream's, plus the difference between engine and policy over all ranks' rollout, before the update."""
        stats = super()._compute_rollout_stats(experiences)
        if rollout_log_probs.measured(self.mel, self.args.rollout.top_p):
            stats |= mismatch.mismatch(
                (e.rollout_log_probs, e.action_log_probs, e.action_mask)
                for e in experiences
                if e.rollout_log_probs is not None  # a user's own agent may return none
            )
        return stats

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict | None = None, client_states: dict | None = None
    ) -> None:
        """As upstream's, with MEL's metrics added; appends a line to `metrics.jsonl`."""
        logs = self.monitor.record_step(global_step, logs_dict or {})
        super().save_logs_and_checkpoints(global_step, logs, client_states)
        self._unsaved = (global_step, client_states or {}) if global_step % self.args.ckpt.save_steps else None
        if (self.run_dir / records.STOP).exists():
            raise Stopped

    def save_best_checkpoint(
        self, eval_metrics: dict[str, float], global_step: int, client_states: dict | None = None
    ) -> None:
        """As upstream's, called after every evaluation; appends a line to `evaluations.jsonl`."""
        self.monitor.record_evaluation(global_step, eval_metrics)
        super().save_best_checkpoint(eval_metrics, global_step, client_states)

    def _save_unsaved(self) -> None:
        if self._unsaved is None:
            return
        step, client_states = self._unsaved
        # Upstream's own saving, which adds to the states, at a step at which it would neither save nor log.
        self.args.ckpt.save_steps, self.args.logger.logging_steps = 1, float("inf")
        super().save_logs_and_checkpoints(step, {}, client_states)


class MELTrainer(MELSteps, _UpstreamTrainer):
    """Upstream's synchronous trainer. Its checkpoints hold the generator's carried Ms as well."""

    def init_checkpoint_states(self) -> dict[str, Any]:
        """As `MELSteps.init_checkpoint_states`; the generator goes on from the restored step, with the Ms carried over."""
        states = super().init_checkpoint_states()
        self.samples_generator.rollouts = states["global_step"]
        loaded = checkpoint.pointed_at(Path(self.args.ckpt.path) / "_actor") if states["global_step"] else None
        rows = carried_experiences.read(loaded) if loaded else []
        self.samples_generator.carried = list(map(carried_experiences.from_row, rows))
        self._restored[carried_experiences.STATE] = rows
        return states

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict | None = None, client_states: dict | None = None
    ) -> None:
        """As `MELSteps.save_logs_and_checkpoints`; notes the Ms carried over now: the next rollout will change them."""
        states = {} if client_states is None else client_states
        states[carried_experiences.STATE] = list(map(carried_experiences.to_row, self.samples_generator.carried))
        super().save_logs_and_checkpoints(global_step, logs_dict, states)

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """As `MELSteps.train_step`; first repeats an evaluation, or its save of the best, that a kill prevented."""
        due = self.eval_dataloader is not None and global_step and not global_step % self.args.eval.steps
        if due and global_step == self._restored["global_step"]:
            evaluation = self.monitor.evaluations.get(global_step)
            if evaluation is None:
                sampling = {name: getattr(self.args.eval, name) for name in ("temperature", "n_samples_per_prompt")}
                evaluation = self.evaluate(global_step, **(self.generate_kwargs | sampling))
            self.save_best_checkpoint(evaluation, global_step, dict(self._restored))
        return super().train_step(rollout_samples, global_step)


# Upstream's trainers look these up in this module.
ppo_trainer.SamplesGenerator = MetaExperienceGenerator
ppo_trainer.PromptDataset = QuestionDataset
RemoteMELTrainer = ray.remote(MELTrainer)
