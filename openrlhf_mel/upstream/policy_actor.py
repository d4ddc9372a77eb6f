"""The policy actor: upstream's own, whose optimizer step also learns the meta-experiences.

Upstream computes the policy loss of a micro-batch, then calls `strategy.backward` and `strategy.optimizer_step`.
`JointStrategy` extends both: it sets DeepSpeed's accumulation boundary by hand, and at the end of an optimizer step,
after the policy's graph is freed, it runs the NLL's forward and backward passes. So only one graph is alive at a time,
and the order of collectives is the same on every rank.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from openrlhf.trainer.ray import ppo_actor

from openrlhf_mel.method.entropy import SampledEntropy
from openrlhf_mel.method.nll_plan import Row
from openrlhf_mel.run import checkpoint
from openrlhf_mel.settings import batches
from openrlhf_mel.settings.paradigms import PARADIGMS
from openrlhf_mel.upstream import lora, saving, sleep
from openrlhf_mel.upstream.internalizer import Internalizer
from openrlhf_mel.upstream.policy_losses import policy_loss
from openrlhf_mel.upstream.rejection import CorrectCountingBuffer, iter_counting_correct

_UpstreamTrainer: Any = ppo_actor.ActorPPOTrainer
_UpstreamActor: Any = ppo_actor.PolicyModelActor.__ray_metadata__.modified_class


class JointStrategy:
    """Upstream's strategy, with `backward` and `optimizer_step` extended for one trainer."""

    def __init__(self, strategy: Any, trainer: JointTrainer) -> None:
        self._strategy, self._trainer = strategy, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def backward(self, loss: torch.Tensor, model: Any, optimizer: Any, **kwargs: Any) -> None:
        """The policy loss's backward pass. DeepSpeed reduces gradients only after the step's last micro-batch.

        Upstream uses the engine's own counter for the boundary. With dynamic batches under ZeRO-1/2 that loses the
        gradients of all but the last micro-batch (OpenRLHF #1131).
        """
        model.model.set_gradient_accumulation_boundary(self._trainer.reduces_gradients)
        self._strategy.backward(loss, model, optimizer, **kwargs)

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any, **kwargs: Any) -> None:
        """At the end of an optimizer step: the NLL's gradient, then upstream's step."""
        if self._trainer.at_boundary:
            self._trainer.internalize()
        self._strategy.optimizer_step(optimizer, model, scheduler, **kwargs)


class JointTrainer(_UpstreamTrainer):
    """Upstream's actor trainer with Eq. 10's second term, `coefficient * L_NLL`.

    Attributes:
        internalizer: learns the Ms.
        at_boundary: whether the current micro-batch is the last of its optimizer step.
    """

    def __init__(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.mel = strategy.args.mel
        self.paradigm = PARADIGMS[self.mel.algorithm]
        self.at_boundary = True
        self._step_log: list[dict[str, float]] = []
        self._policy_loss = 0.0
        self._entropy = SampledEntropy()
        super().__init__(strategy, *args, **kwargs)
        self.strategy = JointStrategy(strategy, self)
        self.internalizer = Internalizer(strategy, self.actor.model, self.tokenizer.pad_token_id)
        # Of the model's output upstream uses the entropy and, with a coefficient, the auxiliary loss. It keeps all of
        # it (fp32 logits above all) until its training step ends, and so during the NLL's passes.
        unused = ("logits", "router_logits", *(() if self.aux_loss else ("aux_loss",)))
        self.actor.register_forward_hook(partial(_release, unused))
        self.actor_loss_fn: Any = policy_loss(self.paradigm, self.actor_loss_fn, self.args)
        if self.paradigm.correct_only:
            self.replay_buffer = CorrectCountingBuffer(
                self.mel.correct_at,
                self.micro_train_batch_size,
                0,  # no limit
                True,  # kept in host memory
                self.args.ds.packing_samples,
                self.args.train.dynamic_batch_enable,
            )

    def ppo_train(self, kl_ctl: float) -> dict[str, float]:
        """One pass over the rollout's samples and Ms; adds `loss/...`, `grad_norm/...` and others to upstream's status."""
        self._step_log = []
        self._entropy.reset()
        status = super().ppo_train(kl_ctl)
        nll = self.internalizer
        status["mel/learned"] = len(nll.rows) if self._step_log and nll.coefficient else 0
        nll.rows = []
        total, tokens = self.strategy.all_reduce(self._entropy.sums, op="sum").tolist()
        if tokens:
            status["policy/entropy"] = total / tokens
        for name in {key for log in self._step_log for key in log}:
            values = [log[name] for log in self._step_log if name in log]
            status[name] = sum(values) / len(values)
        return status

    @property
    def reduces_gradients(self) -> bool:
        """Whether DeepSpeed reduces the policy's gradient over ranks after the backward of this micro-batch.

        True at the step's last micro-batch. But where gradients cannot be set aside and Ms are to be learned, it is
        False: the NLL's last backward pass then reduces both losses together.
        """
        return self.at_boundary and (self.internalizer.ledger.available or not self.internalizer.learns)

    def training_step(self, experience: Any, kl_ctl: float, step: int, loss_batch_info: dict | None = None) -> dict:
        """Upstream's step on one micro-batch; first notes whether it is the last of its optimizer step."""
        if step == 0:  # an epoch begins; a new one uses every M once more
            self._steps = self._optimizer_steps()
            self.internalizer.plan(self._steps.samples)
        self.at_boundary = self._steps.ends[step]
        self._entropy.add(experience.action_log_probs, experience.action_mask)
        if self.paradigm.correct_only:
            self.actor_loss_fn.correct = (experience.scores >= self.mel.correct_at).float()
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        self._policy_loss += float(status["metrics"]["policy_loss"]) * self._steps.share
        if self.at_boundary:
            self._step_log[-1]["loss/policy"] = self.strategy.all_reduce(self._policy_loss)
            self._policy_loss = 0.0
        return status

    def internalize(self) -> None:
        """The second term of this optimizer step, after the policy's last backward pass."""
        self._step_log.append(self.internalizer.learn())

    def _optimizer_steps(self) -> batches.OptimizerSteps:
        train = self.args.train
        if train.dynamic_batch_enable:
            return batches.dynamic(self.replay_buffer.dynamic_optimizer_step, train.batch_size)
        micro = self.micro_train_batch_size  # upstream drops the last short micro-batch
        return batches.windowed(
            len(self.replay_buffer.items) // micro,
            self.strategy.accumulated_gradient,
            micro * self.strategy.ds_device_mesh["dp"].size(),
        )

    def broadcast_to_vllm(self) -> None:
        """Upstream's weight synchronization; with LoRA it sends merged weights under the base model's names."""
        sent = self.use_cuda_ipc or self.args.ds.zero_stage == 3 or torch.distributed.get_rank() == 0
        with lora.merged(self.actor.model.module, weights=sent):
            super().broadcast_to_vllm()


def _release(names: tuple[str, ...], actor: Any, inputs: Any, output: Any) -> None:
    if isinstance(output, tuple):  # (log-probabilities, the model's output)
        for name in output[1].keys() & set(names):
            output[1][name] = None


class PolicyModel(_UpstreamActor):
    """Upstream's policy actor, which also takes the rollout's kept meta-experiences."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """As upstream's, which creates the optimizer, loads a checkpoint into it, and lets it sleep."""
        strategy.prepare = sleep.kept_out_of_checkpoints(strategy.prepare)
        super().init_model_from_pretrained(strategy, *args, **kwargs)

    def take_rows(self, rows: list[Row], coefficient: float) -> None:
        """The Ms to learn with the next `fit`, and R_MEL's coefficient; every rank gets all Ms and picks its own."""
        nll = self.trainer.internalizer
        nll.rows, nll.coefficient = rows, coefficient

    def save_checkpoint(
        self,
        tag: str,
        client_states: dict[str, Any] | None = None,
        metric_value: float | None = None,
        metric_key: str | None = None,
    ) -> None:
        """As upstream's, but atomic; older checkpoints are removed only when the new one is whole."""
        folder = Path(self.strategy.args.ckpt.path)
        if self.save_hf_ckpt:
            self._export(folder / f"{tag}_hf")
        if not self.disable_ds_ckpt:
            saving.save(
                self.strategy, self.actor.model, folder / "_actor", tag, client_states or {}, metric_value, metric_key
            )

    def _export(self, folder: Path) -> None:
        """Save in Hugging Face's format, from which a run cannot resume."""
        model = self.ema_model if self.strategy.args.train.enable_ema else self.actor
        partial = folder.with_name(f"{folder.name}{checkpoint.PARTIAL}")
        self.strategy.save_model(model, self.tokenizer, str(partial))
        if self.strategy.is_rank_0():
            checkpoint.replace(partial, folder)


# Upstream finds these by the module's globals, in the driver and in every worker that imports this module.
ppo_actor.ActorPPOTrainer = JointTrainer
ppo_actor.iter_grad_accum_global_norm = iter_counting_correct
RemotePolicyModel = ray.remote(num_gpus=1)(PolicyModel)
