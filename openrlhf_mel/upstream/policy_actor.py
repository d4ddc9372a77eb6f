"""The policy actor: upstream's own, whose optimizer step also learns the meta-experiences.

Upstream computes the policy loss of a micro-batch, then calls `strategy.backward` and `strategy.optimizer_step`.
MEL stands between the trainer and that strategy (`JointStrategy`): it sets DeepSpeed's accumulation boundary by
hand, and at the end of an optimizer step, once the policy's graph is gone, runs the NLL's forwards and backwards.
So only one graph is alive at a time, and the order of collectives is the same on every rank.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
import torch.nn as nn
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer
from openrlhf.trainer.ray import ppo_actor
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm

from openrlhf_mel import internalization
from openrlhf_mel.internalization import NLLBatch, Row, WeightedRow
from openrlhf_mel.upstream.gradients import GradientLedger

_UpstreamTrainer = ppo_actor.ActorPPOTrainer
_UpstreamActor = ppo_actor.PolicyModelActor.__ray_metadata__.modified_class


class JointStrategy:
    """Upstream's strategy, with `backward` and `optimizer_step` extended for one trainer."""

    def __init__(self, strategy: Any, trainer: JointTrainer) -> None:
        self._strategy, self._trainer = strategy, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def backward(self, loss: torch.Tensor, model: Any, optimizer: Any, **kwargs: Any) -> None:
        """The policy loss's backward. Gradients are handed over only by the step's last micro-batch.

        Upstream leaves the boundary to the engine's own counter, which loses all but the last micro-batch under
        ZeRO-1/2 when batches are dynamic (OpenRLHF #1131).
        """
        model.model.set_gradient_accumulation_boundary(self._trainer.hand_over)
        self._strategy.backward(loss, model, optimizer, **kwargs)

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any, **kwargs: Any) -> None:
        """At the end of an optimizer step: the NLL's gradient, then upstream's step."""
        if self._trainer.at_boundary:
            self._trainer.internalize()
        self._strategy.optimizer_step(optimizer, model, scheduler, **kwargs)


class RejectionPolicyLoss(nn.Module):
    """RFT in the place of upstream's `PolicyLoss`: same call, same results."""

    def __init__(self) -> None:
        super().__init__()
        self.correct: torch.Tensor | None = None  # (B,) of the micro-batch at hand

    def forward(
        self, log_probs, old_log_probs, advantages, action_mask, rollout_log_probs=None, dp_size=1,
        batch_num_tokens=None, global_batch_size=None,
    ):  # fmt: skip
        """Shapes (B, T). `global_batch_size` counts correct responses only (`_iter_counting_correct`, `CorrectCountingBuffer`)."""
        loss = internalization.rejection_loss(log_probs, action_mask, self.correct, global_batch_size, dp_size)
        zero = torch.zeros((), device=log_probs.device)
        return loss, zero, zero, None, None


class CorrectCountingBuffer(NaiveReplayBuffer):
    """Upstream's buffer; with dynamic batches, RFT's denominator is the number of correct responses."""

    def __init__(self, correct_at: float, *args: Any) -> None:
        super().__init__(*args)
        self.correct_at = correct_at

    def setup_dynamic_batch(self, strategy: Any) -> None:
        """Upstream's set-up, then the count of every optimizer step over all ranks."""
        super().setup_dynamic_batch(strategy)
        counts, window = [], []
        for indices, last in zip(self.dynamic_indices, self.dynamic_optimizer_step, strict=True):
            window.append(sum(bool(self.items[i].scores >= self.correct_at) for i in indices))
            if last:
                counts += [float(sum(window))] * len(window)
                window = []
        group = strategy.ds_device_mesh["dp"].get_group()
        total = torch.tensor(counts, device=torch.cuda.current_device())
        torch.distributed.all_reduce(total, group=group)
        self.dynamic_global_batch_size = total.tolist()


class JointTrainer(_UpstreamTrainer):
    """Upstream's actor trainer with Eq. 10's second term, `nll_coef * L_NLL`."""

    def __init__(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.mel = strategy.args.mel
        self.rows: list[Row] = []
        self.at_boundary = True
        self._pending: list[list[list[WeightedRow]]] = []  # [optimizer step][micro-batch], this rank's
        self._step_log: list[dict[str, float]] = []
        self._policy_loss = 0.0
        super().__init__(strategy, *args, **kwargs)
        self.strategy = JointStrategy(strategy, self)
        self.ledger = GradientLedger(self.actor.model)
        if self.mel.algorithm == "rft":
            self.actor_loss_fn = RejectionPolicyLoss()
            args = self.args
            self.replay_buffer = CorrectCountingBuffer(
                self.mel.correct_at,
                self.micro_train_batch_size,
                0,  # no limit
                True,  # kept in host memory
                args.ds.packing_samples,
                args.train.dynamic_batch_enable,
            )

    def ppo_train(self, kl_ctl: float) -> dict[str, float]:
        """One pass over the rollout's samples and Ms; adds `loss/...` and `grad_norm/...` to upstream's status."""
        self._step_log, self._pending = [], []
        status = super().ppo_train(kl_ctl)
        self.rows = []
        for name in {key for log in self._step_log for key in log}:
            values = [log[name] for log in self._step_log if name in log]
            status[name] = sum(values) / len(values)
        return status

    @property
    def hand_over(self) -> bool:
        """Whether the policy's backward at hand is to be reduced for good, so that the engine has its sum.

        Where gradients cannot be set aside, the NLL's last backward does that for both losses.
        """
        return self.at_boundary and (self.ledger.available or not self.mel.nll_coef or not self._batches())

    def training_step(self, experience: Any, kl_ctl: float, step: int, loss_batch_info: dict | None = None) -> dict:
        """Upstream's step on one micro-batch, told whether it is the last of its optimizer step.

        The last micro-batch of the rollout ends a step even when the window is not full, as it is at the end of a
        data set: upstream would carry these gradients over into the next rollout's step.
        """
        if self.args.train.dynamic_batch_enable:
            self.at_boundary = bool(self.replay_buffer.dynamic_optimizer_step[step])
            share = 1.0
        else:
            window = self.strategy.accumulated_gradient
            self.at_boundary = (step + 1) % window == 0 or step + 1 == self._micro_batches
            share = 1 / window
        if self.mel.algorithm == "rft":
            self.actor_loss_fn.correct = (experience.scores >= self.mel.correct_at).float()
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        self._policy_loss += float(status["metrics"]["policy_loss"]) * share
        if self.at_boundary:
            self._step_log[-1]["loss/policy"] = self.strategy.all_reduce(self._policy_loss)
            self._policy_loss = 0.0
        return status

    def internalize(self) -> None:
        """The NLL's forwards and backwards of this optimizer step, after the policy's last backward.

        Gradients are averaged over ranks and divided by the accumulation steps by the engine; both are undone in
        the loss's scale. With coefficient 0 the NLL is measured and nothing is added; without an M in the whole
        step nothing runs: in both cases the update is the baseline's, bit for bit.
        """
        log: dict[str, float] = {}
        self._step_log.append(log)
        batches = self._batches()
        self._pending.pop(0)
        if self.hand_over:
            log |= self._norm("grad_norm/policy")
        if not batches:
            return
        engine, coefficient = self.actor.model, self.mel.nll_coef
        ranks = self.strategy.ds_device_mesh["dp"].size()
        scale = coefficient * ranks * engine.gradient_accumulation_steps()
        weighted = plain = 0.0
        if coefficient:
            self.ledger.set_aside()
        for i, rows in enumerate(batches):
            batch = NLLBatch.collate(rows, self.tokenizer.pad_token_id, torch.cuda.current_device())
            with torch.set_grad_enabled(coefficient > 0):
                nll = batch.nll(self._logits(batch))
                loss = (nll * batch.weights).sum()
            if coefficient:
                engine.set_gradient_accumulation_boundary(i == len(batches) - 1)
                engine.backward(loss * scale)
            weighted += loss.item()
            plain += nll[batch.weights > 0].sum().item()
        if coefficient:
            log |= self._norm("grad_norm/nll")
            self.ledger.add_back()
        rows = sum(w.weight > 0 for rows in batches for w in rows)
        log["loss/nll"] = self.strategy.all_reduce(weighted, op="sum")
        log["mel/nll"] = self.strategy.all_reduce(plain, op="sum") / self.strategy.all_reduce(float(rows), op="sum")

    def _logits(self, batch: NLLBatch) -> torch.Tensor:
        """(B, T + 1, V), at temperature 1: upstream's Actor would divide by the rollout's.

        Packed, a flash attention wants no mask: rows are laid end to end, their positions starting anew.
        """
        model, keep = self.actor.model, batch.logits_to_keep
        if not self.args.ds.packing_samples:
            return model(
                batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                logits_to_keep=keep,
            ).logits
        real = batch.attention_mask.bool()
        kept = torch.zeros_like(real)
        kept[:, -keep:] = real[:, -keep:]
        logits = model(
            batch.input_ids[real][None],
            attention_mask=None,
            position_ids=batch.position_ids[real][None],
            logits_to_keep=kept[real].nonzero()[:, 0],
        ).logits
        padded = logits.new_zeros(real.size(0), keep, logits.size(-1))
        padded[kept[:, -keep:]] = logits[0]
        return padded

    @property
    def _micro_batches(self) -> int:
        """Micro-batches of one pass over this rank's part of the rollout (upstream drops the last short one)."""
        return len(self.replay_buffer.items) // self.micro_train_batch_size

    def _batches(self) -> list[list[WeightedRow]]:
        """This rank's NLL micro-batches of the optimizer step at hand."""
        if not self._pending:  # a new epoch uses every M once more
            self._pending = self._plan()
        return self._pending[0]

    def _plan(self) -> list[list[list[WeightedRow]]]:
        """This rank's share of the rows, by optimizer step of one epoch."""
        mesh = self.strategy.ds_device_mesh["dp"]
        args = self.args
        if args.train.dynamic_batch_enable:
            samples = [args.train.batch_size] * sum(self.replay_buffer.dynamic_optimizer_step)
        else:
            window, left = self.strategy.accumulated_gradient, self._micro_batches
            together = self.micro_train_batch_size * mesh.size()
            samples = [min(window, left - done) * together for done in range(0, left, window)]
        whole = internalization.plan(
            self.rows,
            ranks=mesh.size(),
            mean_over=self.mel.nll_mean_over,
            questions=[count / args.rollout.n_samples_per_prompt for count in samples],
            max_rows=max(1, len(self.rows)) if args.train.dynamic_batch_enable else self.micro_train_batch_size,
            max_tokens=args.train.max_tokens_per_gpu if args.train.dynamic_batch_enable else None,
        )
        return [step[mesh.get_local_rank()] for step in whole]

    def _norm(self, name: str) -> dict[str, float]:
        norm = self.ledger.norm()
        return {} if norm is None else {name: norm}


def _iter_counting_correct(data_iter: Any, strategy: Any, accumulated_gradient: int, mask_fn: Any) -> Any:
    """Upstream's window over an optimizer step; under RFT only correct responses count."""
    mel = strategy.args.mel
    if mel.algorithm != "rft":
        return iter_grad_accum_global_norm(data_iter, strategy, accumulated_gradient, mask_fn)

    def correct_only(item: Any) -> torch.Tensor:
        return mask_fn(item) * (item.scores >= mel.correct_at)[:, None]

    return iter_grad_accum_global_norm(data_iter, strategy, accumulated_gradient, correct_only)


class PolicyModel(_UpstreamActor):
    """Upstream's policy actor, which also takes the rollout's kept meta-experiences."""

    def take_rows(self, rows: list[Row]) -> None:
        """The Ms to learn with the next `fit`; every rank gets all of them and picks its own."""
        self.trainer.rows = rows


# Upstream finds these by the module's globals, in the driver and in every worker that imports this module.
ppo_actor.ActorPPOTrainer = JointTrainer
ppo_actor.iter_grad_accum_global_norm = _iter_counting_correct
RemotePolicyModel = ray.remote(num_gpus=1)(PolicyModel)
