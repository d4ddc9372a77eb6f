"""The policy actor: upstream's own, whose optimizer step also learns the meta-experiences.

Upstream computes the policy loss of a micro-batch, then calls `strategy.backward` and `strategy.optimizer_step`.
MEL stands between the trainer and that strategy (`JointStrategy`): it sets DeepSpeed's accumulation boundary by
hand, and at the end of an optimizer step, once the policy's graph is gone, runs the NLL's forwards and backwards.
So only one graph is alive at a time, and the order of collectives is the same on every rank.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from openrlhf.trainer.ray import ppo_actor

from openrlhf_mel.method import nll_loss
from openrlhf_mel.method.nll_head import NLLHead
from openrlhf_mel.method.nll_loss import NLLBatch, Row, WeightedRow
from openrlhf_mel.run import checkpoint
from openrlhf_mel.upstream import lora, saving, sleep
from openrlhf_mel.upstream.gradients import GradientLedger
from openrlhf_mel.upstream.rejection import CorrectCountingBuffer, RejectionPolicyLoss, iter_counting_correct

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


class JointTrainer(_UpstreamTrainer):
    """Upstream's actor trainer with Eq. 10's second term, `coefficient * L_NLL`.

    Attributes:
        rows: the Ms to learn with the next `ppo_train`, all ranks' alike.
        coefficient: of R_MEL in this rollout (`mel.nll_coef`, or what its schedule makes of it).
        at_boundary: whether the micro-batch at hand is its optimizer step's last.
    """

    def __init__(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.mel = strategy.args.mel
        self.rows: list[Row] = []
        self.coefficient = self.mel.nll_coef
        self.at_boundary = True
        self._pending: list[list[list[WeightedRow]]] = []  # [optimizer step][micro-batch], this rank's
        self._step_log: list[dict[str, float]] = []
        self._policy_loss = 0.0
        self._surprise = torch.zeros(2, dtype=torch.float64)  # sum over sampled tokens of -log pi, and their number
        super().__init__(strategy, *args, **kwargs)
        self.strategy = JointStrategy(strategy, self)
        self.ledger = GradientLedger(self.actor.model)
        self._head = NLLHead(self.actor.model.module)
        # Of the model's output upstream uses the entropy and, with a coefficient, the auxiliary loss; it holds on to all
        # of it (fp32 logits above all) to its training step's end, and so while the NLL is learned.
        unused = ("logits", "router_logits", *(() if self.aux_loss else ("aux_loss",)))
        self.actor.register_forward_hook(partial(_let_go, unused))
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
        """One pass over the rollout's samples and Ms; adds `loss/...`, `grad_norm/...` and others to upstream's status."""
        self._step_log, self._pending = [], []
        self._surprise.zero_()
        status = super().ppo_train(kl_ctl)
        status["mel/learned"] = len(self.rows) if self._step_log and self.coefficient else 0
        self.rows = []
        surprise, tokens = self.strategy.all_reduce(self._surprise, op="sum").tolist()
        if tokens:
            status["policy/entropy"] = surprise / tokens
        for name in {key for log in self._step_log for key in log}:
            values = [log[name] for log in self._step_log if name in log]
            status[name] = sum(values) / len(values)
        return status

    @property
    def hand_over(self) -> bool:
        """Whether DeepSpeed reduces the policy's gradient over ranks after the backward of this micro-batch.

        At the step's last micro-batch; but where gradients cannot be set aside and Ms are to be learned, the NLL's last
        backward reduces both losses together.
        """
        return self.at_boundary and (self.ledger.available or not self.coefficient or not self._batches())

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
        self._note_entropy(experience)
        if self.mel.algorithm == "rft":
            self.actor_loss_fn.correct = (experience.scores >= self.mel.correct_at).float()
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        self._policy_loss += float(status["metrics"]["policy_loss"]) * share
        if self.at_boundary:
            self._step_log[-1]["loss/policy"] = self.strategy.all_reduce(self._policy_loss)
            self._policy_loss = 0.0
        return status

    def _note_entropy(self, experience: Any) -> None:
        """The policy's entropy, by Monte Carlo: the mean of -log pi over tokens that it sampled itself.

        Unbiased where rollouts are sampled from the whole distribution (`rollout.top_p` 1), and free: upstream has
        computed these log-probabilities before the update. Its own entropy would take another (tokens, V) matrix.
        """
        log_probs, mask = experience.action_log_probs, experience.action_mask
        self._surprise += torch.stack([-(log_probs * mask).sum(), mask.sum()]).to(self._surprise)

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
        log |= self._norm("grad_norm/policy")
        if not batches:
            return
        engine, coefficient = self.actor.model, self.coefficient
        ranks = self.strategy.ds_device_mesh["dp"].size()
        scale = coefficient * ranks * engine.gradient_accumulation_steps()
        weighted = plain = 0.0
        if coefficient:
            self.ledger.set_aside()
        for i, rows in enumerate(batches):
            batch = NLLBatch.collate(rows, self.tokenizer.pad_token_id, torch.cuda.current_device())
            with torch.set_grad_enabled(coefficient > 0):
                nll = self._nll(batch)
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

    def _nll(self, batch: NLLBatch) -> torch.Tensor:
        """(B,) NLL of each row, at temperature 1: upstream's Actor would divide by the rollout's.

        Packed, a flash attention wants no mask: rows are laid end to end, their positions starting anew.
        """
        model, mask = self.actor.model, batch.mask.bool()
        if not self.args.ds.packing_samples:
            nll = self._head.nll(
                model,
                batch.targets,
                batch.positions,
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            )
            return nll_loss.row_mean(nll, mask)
        real = batch.attention_mask.bool()
        predicting = torch.zeros_like(real)
        predicting[:, batch.positions] = mask
        nll = self._head.nll(
            model,
            batch.targets[mask][None],
            predicting[real].nonzero()[:, 0],
            input_ids=batch.input_ids[real][None],
            attention_mask=None,
            position_ids=batch.position_ids[real][None],
        )
        return nll_loss.row_mean(nll.new_zeros(mask.shape).masked_scatter(mask, nll), mask)

    def broadcast_to_vllm(self) -> None:
        """Upstream's hand-over of the weights; with LoRA, of the merged ones under the base model's names."""
        sent = self.use_cuda_ipc or self.args.ds.zero_stage == 3 or torch.distributed.get_rank() == 0
        with lora.merged(self.actor.model.module, weights=sent):
            super().broadcast_to_vllm()

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
        whole = nll_loss.plan(
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


def _let_go(names: tuple[str, ...], actor: Any, inputs: Any, output: Any) -> None:
    if isinstance(output, tuple):  # (log-probabilities, the model's output)
        for name in output[1].keys() & set(names):
            output[1][name] = None


class PolicyModel(_UpstreamActor):
    """Upstream's policy actor, which also takes the rollout's kept meta-experiences."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Upstream's, which makes the optimizer, loads a checkpoint into it, and lets it sleep."""
        strategy.prepare = sleep.kept_out_of_checkpoints(strategy.prepare)
        super().init_model_from_pretrained(strategy, *args, **kwargs)

    def take_rows(self, rows: list[Row], coefficient: float) -> None:
        """The Ms to learn with the next `fit`, and R_MEL's coefficient; every rank gets all Ms and picks its own."""
        self.trainer.rows, self.trainer.coefficient = rows, coefficient

    def save_checkpoint(
        self,
        tag: str,
        client_states: dict[str, Any] | None = None,
        metric_value: float | None = None,
        metric_key: str | None = None,
    ) -> None:
        """Upstream's, but whole or not there at all, and nothing older goes before."""
        folder = Path(self.strategy.args.ckpt.path)
        if self.save_hf_ckpt:
            self._export(folder / f"{tag}_hf")
        if not self.disable_ds_ckpt:
            saving.save(
                self.strategy, self.actor.model, folder / "_actor", tag, client_states or {}, metric_value, metric_key
            )

    def _export(self, folder: Path) -> None:
        """In Hugging Face's format, which cannot be resumed from."""
        model = self.ema_model if self.strategy.args.train.enable_ema else self.actor
        partial = folder.with_name(f"{folder.name}{checkpoint.PARTIAL}")
        self.strategy.save_model(model, self.tokenizer, str(partial))
        if self.strategy.is_rank_0():
            checkpoint.replace(partial, folder)


# Upstream finds these by the module's globals, in the driver and in every worker that imports this module.
ppo_actor.ActorPPOTrainer = JointTrainer
ppo_actor.iter_grad_accum_global_norm = iter_counting_correct
RemotePolicyModel = ray.remote(num_gpus=1)(PolicyModel)
