"""Upstream's policy actor with MEL's trainer in plain process groups; gradients are recorded before the optimizer."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from e2e_cpu import nursery, oracle
from e2e_cpu.oracle import Data, Rollout

FP32 = "--mel.cpu_dtype=fp32"
PACKED = ("--ds.packing_samples", "--ds.attn_implementation=flash_attention_2")
DYNAMIC = (*PACKED, "--train.dynamic_batch_enable", "--train.max_tokens_per_gpu=32")  # several micro-batches


@dataclass(frozen=True)
class Case:
    """A configuration of the trainer, and the rollouts that one engine learns in sequence.

    Attributes:
        learning_rate: with 0 all rollouts see the same parameters.
        coefficients: of R_MEL in each rollout; None: `mel.nll_coef` in all.
        offload: use DeepSpeed's offloaded optimizer and gradients, so that no gradient can be set aside.
        upstream_only: upstream's own trainer, unmodified: the baseline.
        prepare: called in every rank before the actor is made, e.g. to inject a fault that the check must find.
    """

    flags: tuple[str, ...] = (FP32,)
    rollouts: tuple[Rollout, ...] = (Rollout(),)
    train_batch: int = 16
    micro_batch: int = 2
    learning_rate: float = 0.0
    coefficients: tuple[float, ...] | None = None
    lora_rank: int = 0
    offload: bool = False
    upstream_only: bool = False
    prepare: Callable[[Data], None] | None = None

    @property
    def arguments(self) -> list[str]:
        return [
            "--actor.model_name_or_path=tiny", "--data.prompt_dataset=x.jsonl", "--data.label_key=label",
            "--data.max_len=128", f"--rollout.max_new_tokens={oracle.LONGEST}", "--mel.runtime=cpu", "--mel.cpu_engine=transformers",
            f"--mel.cpu_dtype={self.dtype}",
            "--actor.max_norm=0", "--rollout.micro_batch_size=1",
            f"--rollout.batch_size={self.rollouts[0].questions}", f"--rollout.n_samples_per_prompt={oracle.GROUP}",
            f"--train.batch_size={self.train_batch}", f"--train.micro_batch_size={self.micro_batch}",
            f"--actor.adam.lr={self.learning_rate}", "--actor.lr_scheduler=constant", "--actor.lr_warmup_ratio=0",
            *self.flags,
        ]  # fmt: skip

    @property
    def dtype(self) -> str:
        return "fp32" if FP32 in self.flags else "bf16"

    @functools.cache  # noqa: B019 (cases live as long as the tests)
    def settings(self, ranks: int, *more: str) -> Any:
        from openrlhf_mel.settings.resolve import resolve

        return resolve(None, [*self.arguments, f"--actor.num_gpus_per_node={ranks}", *more])

    def data(self, folder: Path, ranks: int) -> list[Data]:
        """Return the data of each rollout."""
        temperature = self.settings(ranks).upstream["rollout.temperature"]
        return [oracle.data(folder, rollout, temperature, self.lora_rank) for rollout in self.rollouts]

    def coefficient(self, i: int, ranks: int) -> float:
        return self.coefficients[i] if self.coefficients else self.settings(ranks).mel.nll_coef


@dataclass
class Outcome:
    """The result of one rollout. Lists have one entry per optimizer step.

    Attributes:
        gradients: by parameter name, averaged over ranks, before clipping.
        samples: indices of the learned samples, over all ranks.
        before: the trainable parameters before the step, if there is a learning rate.
        after: all parameters at the end, if there is a learning rate.
        micro_batches: number of policy micro-batches on this rank.
    """

    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    samples: list[list[int]] = field(default_factory=list)
    before: list[dict[str, torch.Tensor]] = field(default_factory=list)
    after: dict[str, torch.Tensor] = field(default_factory=dict)
    status: dict[str, float] = field(default_factory=dict)
    micro_batches: int = 0


def run(folder: Path, case: Case, ranks: int, limit: float = nursery.LIMIT_S) -> list[Outcome]:
    """Run the real trainer; return the outcome of each rollout of the case, with rank 0's gradients."""
    found = nursery.run(_rank, ranks, free_port(), folder, case, case.data(folder, ranks), ranks=ranks, limit=limit)
    return [together(list(of_ranks)) for of_ranks in zip(*found, strict=True)]


def together(of_ranks: list[Outcome]) -> Outcome:
    """Return rank 0's outcome with the samples of all ranks."""
    steps = zip(*(outcome.samples for outcome in of_ranks), strict=True)
    return replace(of_ranks[0], samples=[sorted(i for own in step for i in own) for step in steps])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _rank(rank: int, ranks: int, port: int, folder: Path, case: Case, data: list[Data]) -> list[Outcome]:
    if case.prepare:
        case.prepare(data[0])
    strategy, actor = start(case, arguments(case, ranks), rank, ranks, port, folder)
    return learn(case, strategy, actor, data, rank, ranks)


def learn(case: Case, strategy: Any, actor: Any, data: list[Data], rank: int, ranks: int) -> list[Outcome]:
    """Learn every rollout in sequence on one engine."""
    outcomes = []
    for i, rollout in enumerate(data):
        outcomes.append(outcome := Outcome())
        record(case, strategy, actor, outcome)
        for experience in experiences(rollout, rank, ranks):
            if case.upstream_only:
                experience.rollout_log_probs = None  # upstream requests none; elsewhere they change nothing
            actor.append(experience)
        if not case.upstream_only:
            actor.take_rows(rollout.rows, case.coefficient(i, ranks))
        outcome.status = actor.fit(0.0)
        if case.learning_rate:
            outcome.after = parameters(actor)
    return outcomes


def arguments(case: Case, ranks: int, *more: str) -> Any:
    """Return upstream's nested arguments, as its entry would make them."""
    from openrlhf.utils.config import hierarchize

    from openrlhf_mel.settings import flags

    settings = case.settings(ranks, *more)
    args = hierarchize(flags.parser().parse_args(settings.argv))
    args.mel = settings.mel
    args.actor.eps_clip_low_high = args.actor.eps_clip_low_high or (args.actor.eps_clip, args.actor.eps_clip)
    args.rollout.max_tokens_per_gpu = args.train.max_tokens_per_gpu
    args.ds.lora.rank = case.lora_rank
    args.ds.adam_offload = case.offload  # our options refuse it on a CPU, where it saves nothing
    return args


def start(case: Case, args: Any, rank: int, ranks: int, port: int, folder: Path) -> tuple[Any, Any]:
    """Return the strategy and the policy actor with its engine built."""
    import openrlhf.models.actor
    from openrlhf.trainer.ray import ppo_actor
    from openrlhf.utils import get_strategy, loss_utils

    from openrlhf_mel.cpu import policy
    from openrlhf_mel.upstream import policy_actor

    if case.lora_rank:
        made = openrlhf.models.actor.get_peft_model
        openrlhf.models.actor.get_peft_model = lambda *args: _set_adapters(made(*args))
    if case.upstream_only:
        policy.install()
        ppo_actor.ActorPPOTrainer = policy_actor._UpstreamTrainer
        ppo_actor.iter_grad_accum_global_norm = loss_utils.iter_grad_accum_global_norm
        actor = policy_actor._UpstreamActor(ranks, rank, "127.0.0.1", port)
        args.ds.param_dtype = policy.cpu_dtype(args)
    else:
        actor = policy.CPUPolicyModel(ranks, rank, "127.0.0.1", port)
    strategy = get_strategy(args)
    actor.init_model_from_pretrained(strategy, str(folder), 100, None)
    return strategy, actor


@torch.no_grad()
def _set_adapters(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.copy_(oracle.adapter(name, parameter.shape))
    return model


def experiences(data: Data, rank: int, ranks: int) -> list[Any]:
    """Return this rank's contiguous part, one response per experience."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    share = len(data.responses) // ranks
    made = []
    for i in range(rank * share, (rank + 1) * share):
        prompt, response = data.prompts[i], data.responses[i]
        ids = torch.tensor([prompt + response])
        mask = torch.zeros(1, ids.size(1) - 1, dtype=torch.long)
        mask[:, len(prompt) - 1 :] = 1
        old, engine = (
            torch.zeros(mask.shape).masked_scatter(mask.bool(), each[i].float()) for each in (data.old, data.engine)
        )
        advantages = data.advantages[i] * mask.float()
        score = torch.tensor([data.scores[i]])
        made.append(
            Experience(
                sequences=ids, attention_mask=torch.ones_like(ids), action_mask=mask, action_log_probs=old,
                rollout_log_probs=engine, advantages=advantages, returns=advantages, rewards=score, scores=score,
                response_length=torch.tensor([len(response)]), truncated=torch.tensor([False]),
                total_length=torch.tensor([float(ids.size(1))]), index=[i], prompts=[""], labels=[""], images=[None],
                mm_train_inputs=[None], info={"reward": score, "sample": torch.tensor([float(i)])},
            )
        )  # fmt: skip
    return made


def record(case: Case, strategy: Any, actor: Any, outcome: Outcome) -> None:
    """Patch actor and strategy to fill `outcome` during learning."""
    from deepspeed.utils import safe_get_full_grad

    learn, step = type(actor.trainer).training_step, type(strategy).optimizer_step
    pending: list[int] = []

    def training_step(experience: Any, *args: Any) -> Any:
        outcome.micro_batches += 1
        pending.extend(map(int, experience.info["sample"]))  # upstream does not keep `index`
        return learn(actor.trainer, experience, *args)

    def optimizer_step(optimizer: Any, model: Any, scheduler: Any, **kwargs: Any) -> None:
        if model.model.is_gradient_accumulation_boundary():
            named = [(n, p) for n, p in model.model.module.named_parameters() if p.requires_grad]
            outcome.gradients.append({n: safe_get_full_grad(p).double().clone() for n, p in named})
            outcome.samples.append(pending.copy())
            pending.clear()
            if case.learning_rate:
                outcome.before.append(parameters(actor))
        step(strategy, optimizer, model, scheduler, **kwargs)

    actor.trainer.training_step = training_step
    strategy.optimizer_step = optimizer_step


def parameters(actor: Any) -> dict[str, torch.Tensor]:
    """Return all parameters by name, gathered."""
    import deepspeed

    found = {}
    for name, parameter in actor.actor.model.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            found[name] = parameter.detach().clone()
    return found
