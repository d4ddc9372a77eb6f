"""Upstream's policy actor with MEL's trainer in plain process groups, and the oracle that it is held to.

Rebuilding a DeepSpeed engine takes about a second; a Ray run takes half a minute. So many cases share one start of
the ranks: `run_cases` starts them, and each rank goes through the list.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

VOCABULARY = 61
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Case:
    """One configuration of the trainer and one rollout.

    `meta` is the number of Ms; `questions` of 4 responses each are spread over the ranks.
    """

    name: str
    flags: tuple[str, ...] = ()
    questions: int = 4
    meta: int = 3
    train_batch: int = 16
    micro_batch: int = 2
    seed: int = 0
    upstream_only: bool = False  # upstream's own trainer, unmodified: the baseline
    still: bool = False  # no policy term and no learning: every step's gradient is the NLL's at the start
    ledger: bool = True  # False: gradients cannot be set aside, as under offloading

    @property
    def arguments(self) -> list[str]:
        return [
            "--actor.model_name_or_path=tiny", "--data.prompt_dataset=x.jsonl", "--data.label_key=label",
            "--data.max_len=128", "--mel.runtime=cpu", "--actor.max_norm=0",
            f"--rollout.batch_size={self.questions}", "--rollout.n_samples_per_prompt=4",
            f"--train.batch_size={self.train_batch}", f"--train.micro_batch_size={self.micro_batch}",
            f"--actor.adam.lr={0 if self.still else LEARNING_RATE}", "--actor.lr_scheduler=constant", "--actor.lr_warmup_ratio=0",
            *self.flags,
        ]  # fmt: skip


@dataclass
class Rollout:
    """Responses and Ms of a case, the same on every rank."""

    prompts: list[list[int]]
    responses: list[list[int]]
    advantages: list[float]
    scores: list[float]
    old_noise: list[torch.Tensor]
    rows: list[Any] = field(default_factory=list)


def make_rollout(case: Case) -> Rollout:
    """Random ids of unequal lengths; the last questions may have no M, the first ones two."""
    from openrlhf_mel.internalization import Row

    rng = random.Random(case.seed)
    torch.manual_seed(case.seed)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(low, high))]

    count = case.questions * 4
    prompts = [ids(3, 9) for _ in range(case.questions) for _ in range(4)]
    responses = [ids(2, 14) for _ in range(count)]
    rollout = Rollout(
        prompts,
        responses,
        [0.0 if case.still else rng.uniform(-1.5, 1.5) for _ in range(count)],
        [float(rng.random() < 0.5) for _ in range(count)],
        [0.3 * torch.randn(len(r)) for r in responses],
    )
    for i in range(case.meta):  # last, so that the responses are the same with and without Ms
        rollout.rows.append(Row(tuple(ids(10, 40)), tuple(ids(2, 12)), f"q{i // 2 if i < 4 else i}"))
    return rollout


def make_model(folder: Path) -> Path:
    """A random two-layer model in fp32, with a tokenizer that has a padding id."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    words = ["<pad>", "<eos>", "<unk>"] + [f"w{i}" for i in range(VOCABULARY - 3)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=0,
        eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the flat start, so that gradients differ
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def sequence_log_probs(model: Any, prefix: list[int], continuation: list[int]) -> torch.Tensor:
    """(len(continuation),) log-probabilities, one row at a time: no padding, no packing, no batch."""
    ids = torch.tensor([prefix + continuation])
    log_probs = model(input_ids=ids).logits[0, len(prefix) - 1 : -1].log_softmax(-1)
    return log_probs.gather(-1, torch.tensor(continuation)[:, None])[:, 0]


def oracle(folder: Path, case: Case, rollout: Rollout, mel: Any) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Eq. 10's gradient over the whole batch, by autograd in one process, in float64.

    Returns the gradient of the loss by parameter name, and the values of its two terms.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    terms, lengths, correct = [], [], []
    for i, response in enumerate(rollout.responses):
        log_probs = sequence_log_probs(model, rollout.prompts[i], response)
        if mel.algorithm == "rft":
            if rollout.scores[i] >= mel.correct_at:
                correct.append(-log_probs.mean())
            continue
        ratio = (log_probs - (log_probs.detach() + rollout.old_noise[i].double())).exp()
        a = rollout.advantages[i]
        terms.append(-torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a))
        lengths.append(len(response))
    if mel.algorithm == "rft":
        policy = sum(correct) / max(1, len(correct)) if correct else torch.zeros((), dtype=torch.float64)
    elif mel.algorithm == "grpo":
        policy = sum(t.mean() for t in terms) / len(terms)
    else:
        policy = sum(t.sum() for t in terms) / sum(lengths)
    nll = torch.zeros((), dtype=torch.float64)
    if rollout.rows:
        each = [-sequence_log_probs(model, list(r.context_ids), list(r.token_ids)).mean() for r in rollout.rows]
        if mel.nll_mean_over == "experiences":
            nll = sum(each) / len(each)
        else:
            questions = {r.question for r in rollout.rows}
            of = {q: [n for n, r in zip(each, rollout.rows, strict=True) if r.question == q] for q in questions}
            nll = sum(sum(v) / len(v) for v in of.values()) / case.questions
    (policy + mel.nll_coef * nll).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    return gradients, {"loss/policy": policy.item(), "loss/nll": nll.item()}


def run_cases(folder: Path, cases: list[Case], ranks: int) -> dict[str, dict[str, Any]]:
    """Each case's gradients, status and parameters after the update, as rank 0 saw them."""
    results = folder / f"results-{ranks}-{os.getpid()}.pt"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.start_processes(
        _rank, args=(ranks, port, folder, cases, results), nprocs=ranks, start_method="spawn"
    )
    return torch.load(results, weights_only=False)


def _rank(rank: int, ranks: int, port: int, folder: Path, cases: list[Case], results: Path) -> None:
    from openrlhf_mel.cpu import standins

    standins.install()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {case.name: _run(case, rank, ranks, port, folder) for case in cases}
    if rank == 0:
        torch.save(found, results)


def _run(case: Case, rank: int, ranks: int, port: int, folder: Path) -> dict[str, Any]:
    from openrlhf.trainer.ray import ppo_actor
    from openrlhf.utils import get_strategy
    from openrlhf.utils.config import hierarchize

    from openrlhf_mel.cpu import policy
    from openrlhf_mel.upstream import flags, policy_actor
    from openrlhf_mel.upstream.settings import resolve

    settings = resolve(None, [*case.arguments, f"--actor.num_gpus_per_node={ranks}"])
    args = hierarchize(flags.parser().parse_args(settings.argv))
    args.mel = settings.mel
    args.actor.eps_clip_low_high = (args.actor.eps_clip, args.actor.eps_clip)
    args.rollout.max_tokens_per_gpu = args.train.max_tokens_per_gpu
    if case.upstream_only:
        policy.install()
        ppo_actor.ActorPPOTrainer = policy_actor._UpstreamTrainer
        ppo_actor.iter_grad_accum_global_norm = policy_actor.iter_grad_accum_global_norm
        actor = policy_actor._UpstreamActor(ranks, rank, "127.0.0.1", port)
        strategy = get_strategy(args)
        strategy.param_dtype = strategy.args.ds.param_dtype = policy.cpu_dtype(args)
    else:
        ppo_actor.iter_grad_accum_global_norm = policy_actor._iter_counting_correct
        actor = policy.CPUPolicyModel(ranks, rank, "127.0.0.1", port)
        strategy = get_strategy(args)
    actor.init_model_from_pretrained(strategy, str(folder), 100, None)
    rollout = make_rollout(case)
    for experience in _experiences(actor, rollout, rank, ranks):
        actor.append(experience)
    gradients: list[dict[str, torch.Tensor]] = []
    _record_gradients(strategy, actor, gradients)
    if not case.upstream_only:
        actor.take_rows(rollout.rows)
        actor.trainer.ledger.available = case.ledger
    status = actor.fit(0.0)
    return {"gradients": gradients, "status": status, "parameters": _parameters(actor)}


def _experiences(actor: Any, rollout: Rollout, rank: int, ranks: int) -> list[Any]:
    """This rank's contiguous part, one response an experience, old log-probs the policy's own plus noise."""
    from openrlhf.trainer.ppo_utils.experience import Experience

    share = len(rollout.responses) // ranks
    made = []
    for i in range(rank * share, (rank + 1) * share):
        prompt, response = rollout.prompts[i], rollout.responses[i]
        ids = torch.tensor([prompt + response])
        mask = torch.zeros(1, ids.size(1) - 1, dtype=torch.long)
        mask[:, len(prompt) - 1 :] = 1
        own = actor.forward(ids, mask, torch.ones_like(ids)).float()
        old = own.clone()
        old[:, len(prompt) - 1 :] += rollout.old_noise[i]
        made.append(
            Experience(
                sequences=ids,
                attention_mask=torch.ones_like(ids),
                action_mask=mask,
                action_log_probs=old * mask,
                advantages=rollout.advantages[i] * mask.float(),
                returns=rollout.advantages[i] * mask.float(),
                rewards=torch.tensor([rollout.scores[i]]),
                scores=torch.tensor([rollout.scores[i]]),
                response_length=torch.tensor([len(response)]),
                truncated=torch.tensor([False]),
                total_length=torch.tensor([float(ids.size(1))]),
                index=[i], prompts=[""], labels=[""], images=[None], mm_train_inputs=[None],
                info={"reward": torch.tensor([rollout.scores[i]])},
            )
        )  # fmt: skip
    return made


def _record_gradients(strategy: Any, actor: Any, gradients: list[dict[str, torch.Tensor]]) -> None:
    from deepspeed.utils import safe_get_full_grad

    step = strategy.optimizer_step

    def record(optimizer: Any, model: Any, scheduler: Any, **kwargs: Any) -> None:
        if model.model.is_gradient_accumulation_boundary():
            gradients.append(
                {n: safe_get_full_grad(p).double().clone() for n, p in model.model.module.named_parameters()}
            )
        step(optimizer, model, scheduler, **kwargs)

    strategy.optimizer_step = record


def _parameters(actor: Any) -> dict[str, torch.Tensor]:
    import deepspeed

    found = {}
    for name, parameter in actor.actor.model.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            found[name] = parameter.detach().clone()
    return found


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """|g - g*| / |g*| over all parameters."""
    off = sum(((found[n].double() - g) ** 2).sum() for n, g in expected.items())
    size = sum((g**2).sum() for g in expected.values())
    return float((off / size).sqrt())
