"""Eq. 10 written out: one process, autograd in float64, one row at a time, no padding, no packing, no batch."""

from __future__ import annotations

import functools
import math
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call

VOCABULARY = 61
CLIP = 0.2
SEQUENCE_CLIP = (3e-4, 4e-4)  # GSPO's, below and above 1
LONGEST = 40  # `rollout.max_new_tokens`, longer than any response here
GROUP = 4  # responses per question
# Policy / sampling policy: on both sides of the clip's edges, far enough that rounding does not carry them across.
RATIOS = (0.7, 0.95, 1.05, 1.4)
# Policy / sampling engine: within upstream's default band and beyond both ends.
ENGINE_RATIOS = (0.3, 0.9, 1.1, 7.0)
BAND = (0.5, 5.0)
LORA_ALPHA = 16  # upstream's default


@dataclass(frozen=True)
class Rollout:
    """Random responses and Ms. The responses depend on `questions` and `seed` alone.

    Attributes:
        meta: number of Ms; the first two questions get up to two each.
        equal: whether all Ms' rows have one length, so that ranks get equal shares.
        policy: False: all advantages are 0.
        correct: indices of correct responses; None: about half, at random.
        carried: number of Ms of earlier rollouts' questions.
    """

    questions: int = 4
    meta: int = 3
    equal: bool = False
    policy: bool = True
    correct: tuple[int, ...] | None = None
    seed: int = 0
    carried: int = 0


@dataclass(frozen=True)
class Data:
    """A rollout's contents, the same on every rank.

    `old` are the policy's log-probabilities at sampling time, `engine` those of the sampling engine.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    advantages: list[float]
    scores: list[float]
    rows: list[Any]
    old: list[torch.Tensor]
    engine: list[torch.Tensor]


@dataclass(frozen=True)
class Part:
    """One term of Eq. 10: its value, and its gradient by parameter name."""

    value: float
    gradient: dict[str, torch.Tensor]

    @property
    def norm(self) -> float:
        return norm(self.gradient.values())


@dataclass(frozen=True)
class Step:
    """An optimizer step's two terms; `nll` is None in a step without Ms. `mean_nll` is always the mean over Ms."""

    policy: Part
    nll: Part | None = None
    coefficient: float = 1.0
    mean_nll: float | None = None

    @property
    def gradient(self) -> dict[str, torch.Tensor]:
        if self.nll is None:
            return self.policy.gradient
        return {n: g + self.coefficient * self.nll.gradient[n] for n, g in self.policy.gradient.items()}


def norm(tensors: Iterable[torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def make_model(folder: Path) -> Path:
    """Save a random two-layer model, with a tokenizer that has a padding id.

    Its weights are bf16 numbers, so that the trainer in fp32 or bf16 and the oracle hold the same values. The last
    layer's `down_proj` is zero: parameters that act only through it must get a gradient of exactly zero.

    Larger weights increase bf16's error. With these, gradients of a plain bf16 forward and backward, row by row in one
    process without a trainer, are off by 0.008 to 0.011, and by at most 0.018 in a tensor.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    words = ["<pad>", "<eos>", "<unk>"] + [f"w{i}" for i in range(VOCABULARY - 3)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=0,
        eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # away from the flat initialisation, so that gradients differ
            parameter.add_((0.1 if "embed" in name else 0.05) * torch.randn_like(parameter))
            parameter.copy_(parameter.bfloat16())
        model.model.layers[-1].mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    return folder


def adapter(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Return a LoRA factor's values, determined by its name: bf16 numbers. A and B are nonzero, so both get gradients.

    With these, a plain bf16 forward and backward is off by 0.010 to 0.014, and by at most 0.022 in a tensor.
    """
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return (0.05 * noise).bfloat16().float()


class Oracle:
    """A model's log-probabilities and the gradients of Eq. 10's terms.

    With `lora_rank`, the trainable tensors are the adapters' factors A and B, and every linear layer but the head has
    the weight W + alpha / rank * B A.

    Args:
        parameters: the trainer's, by its names; by default the folder's and `adapter`'s.
    """

    def __init__(self, folder: Path, lora_rank: int = 0, parameters: dict[str, torch.Tensor] | None = None) -> None:
        from transformers import AutoModelForCausalLM

        # experts one by one: torch has no grouped matrix product in float64
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager")
        self._scaling = LORA_ALPHA / lora_rank if lora_rank else None
        base = dict(self._model.named_parameters())
        if lora_rank:
            shapes = dict(_factors(base, lora_rank))
            self.leaves = {n: adapter(n, shape) for n, shape in shapes.items()}
        else:
            self.leaves = base
        if parameters is not None:
            self.leaves = {n: parameters[n] for n in self.leaves}
        self.leaves = {n: p.detach().double().requires_grad_() for n, p in self.leaves.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the model's parameters by its own names, as functions of the trainable ones."""
        if self._scaling is None:
            return self.leaves
        merged = {n: p.detach() for n, p in self._model.named_parameters()}
        for name in merged:
            a, b = (self.leaves.get(factor) for factor in _factor_names(name))
            if a is not None:
                merged[name] = merged[name] + self._scaling * b @ a
        return merged

    def log_probs(self, prefix: Sequence[int], continuation: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
        """Return log-probabilities, (len(continuation),)."""
        ids = torch.tensor([[*prefix, *continuation]])
        logits = functional_call(self._model, self.weights(), (ids,)).logits[0, len(prefix) - 1 : -1]
        log_probs = (logits / temperature).log_softmax(-1)
        return log_probs.gather(-1, torch.tensor(continuation)[:, None])[:, 0]

    def policy(
        self,
        data: Data,
        algorithm: str,
        temperature: float = 1.0,
        samples: Iterable[int] | None = None,
        correction: str = "off",
    ) -> Part:
        """Return the policy term over an optimizer step's samples, by the paradigm's own formula.

        Args:
            correction: of the engine's different sampling probabilities; see `importance`.
        """
        terms, correct = [], []
        for i in range(len(data.responses)) if samples is None else samples:
            log_probs = self.log_probs(data.prompts[i], data.responses[i], temperature)
            if algorithm == "rft":
                correct += [-log_probs.mean()] if data.scores[i] == 1 else []
                continue
            log_ratio, a = log_probs - data.old[i], data.advantages[i]
            if algorithm == "gspo":  # one per response: the geometric mean of its tokens' ratios
                ratio, (low, high) = log_ratio.mean(0, keepdim=True).exp(), SEQUENCE_CLIP
            else:
                ratio, low, high = log_ratio.exp(), CLIP, CLIP
            weight = importance(data.old[i].tolist(), data.engine[i].tolist(), correction)
            terms.append(-torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a) * torch.tensor(weight))
        if algorithm == "rft":
            return self._part(sum(correct) / len(correct) if correct else None)
        return self._part(AGGREGATIONS[algorithm](terms))

    def nll(self, rows: Sequence[Any], mean_over: str, questions: float) -> Part | None:
        """Return the NLL of the Ms of an optimizer step over `questions` questions; None without Ms."""
        if not rows:
            return None
        each = [-self.log_probs(r.context_ids, r.token_ids).mean() for r in rows]
        if mean_over == "experiences":
            return self._part(sum(each) / len(each))
        of = {q: [n for n, r in zip(each, rows, strict=True) if r.question == q] for q in {r.question for r in rows}}
        return self._part(sum(sum(own) / len(own) for own in of.values()) / questions)

    def _part(self, loss: torch.Tensor | None) -> Part:
        leaves = list(self.leaves.values())
        if loss is None:
            return Part(0.0, {n: torch.zeros_like(p) for n, p in self.leaves.items()})
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return Part(loss.item(), dict(zip(self.leaves, found, strict=True)))


def _mean_of_each(terms: list[torch.Tensor]) -> torch.Tensor:
    """Average over a response's tokens, then over responses."""
    return sum(t.mean() for t in terms) / len(terms)


def _mean_of_all(terms: list[torch.Tensor]) -> torch.Tensor:
    """Average over all tokens."""
    return torch.cat(terms).mean()


def _sum_over_longest(terms: list[torch.Tensor]) -> torch.Tensor:
    """Divide a response's sum by the maximum response length, then average over responses."""
    return sum(t.sum() / LONGEST for t in terms) / len(terms)


# Applied to a step's responses, each a tensor of its tokens' terms (one term under GSPO).
AGGREGATIONS = {
    "grpo": _mean_of_each,
    "gspo": _mean_of_each,
    "dr_grpo": _sum_over_longest,
    "rloo": _mean_of_all,
    "reinforce++": _mean_of_all,
    "reinforce++-baseline": _mean_of_all,
}


def importance(old: Sequence[float], engine: Sequence[float], correction: str) -> list[float]:
    """Return a response's weights per token: w = policy / engine, with `correction` applied outside `BAND`.

    `token clip`: w is clipped to the band; `token mask`: w becomes 0 outside it; `seq mask`: all are 0 if their
    geometric mean is outside; `off`: all are 1.
    """
    low, high = BAND
    ratios = [math.exp(o - e) for o, e in zip(old, engine, strict=True)]
    if correction == "token clip":
        return [min(max(w, low), high) for w in ratios]
    if correction == "token mask":
        return [w if low <= w <= high else 0.0 for w in ratios]
    if correction == "seq mask":
        return [w if low <= math.prod(ratios) ** (1 / len(ratios)) <= high else 0.0 for w in ratios]
    return [1.0] * len(ratios)


def sample(rollout: Rollout, log_probs: Callable[[list[int], list[int]], torch.Tensor]) -> Data:
    """Draw the rollout; `old` is `log_probs(prompt, response)` with random ratios from `RATIOS` divided out."""
    rng = random.Random(rollout.seed)
    count = rollout.questions * GROUP

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(low, high))]

    prompts = [ids(3, 9) for _ in range(count)]
    responses = [ids(2, 14) for _ in range(count)]
    advantages = [rng.uniform(-1.5, 1.5) for _ in range(count)]
    scores = [float(rng.random() < 0.5) for _ in range(count)]
    if rollout.correct is not None:
        scores = [float(i in rollout.correct) for i in range(count)]
    ratios = [torch.tensor(rng.choices(RATIOS, k=len(r)), dtype=torch.float64) for r in responses]
    with torch.no_grad():
        own = [log_probs(p, r) for p, r in zip(prompts, responses, strict=True)]
    old = [each - ratio.log() for each, ratio in zip(own, ratios, strict=True)]
    context, length = ((25, 25), (6, 6)) if rollout.equal else ((10, 40), (2, 12))
    rows = [_row(ids(*context), ids(*length), i // 2 if i < 4 else i) for i in range(rollout.meta)]
    rows += [_row(ids(*context), ids(*length), count + i) for i in range(rollout.carried)]
    chosen = random.Random(f"engine {rollout.seed}").choices  # a separate generator leaves the other draws unchanged
    engine = [each - torch.tensor(chosen(ENGINE_RATIOS, k=len(each)), dtype=torch.float64).log() for each in old]
    return Data(prompts, responses, advantages if rollout.policy else [0.0] * count, scores, rows, old, engine)


def _row(context: list[int], token_ids: list[int], question: int) -> Any:
    from openrlhf_mel.method.nll_plan import Row

    return Row(tuple(context), tuple(token_ids), f"q{question}")


def _factor_names(weight: str) -> tuple[str, str]:
    """Return PEFT's names of A and B of a base weight."""
    stem = "base_model.model." + weight.removesuffix(".weight")
    return f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight"


def _factors(base: dict[str, torch.Tensor], rank: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield names and shapes of the factors that upstream's `all-linear` creates."""
    for name, weight in base.items():
        if weight.dim() == 2 and "embed" not in name:
            a, b = _factor_names(name)
            yield from ((a, (rank, weight.size(1))), (b, (weight.size(0), rank)))


@functools.cache
def of(folder: Path, lora_rank: int = 0) -> Oracle:
    """Return the oracle of a saved model."""
    return Oracle(folder, lora_rank)


@functools.cache
def data(folder: Path, rollout: Rollout, temperature: float = 1.0, lora_rank: int = 0) -> Data:
    own = of(folder, lora_rank)
    return sample(rollout, lambda prompt, response: own.log_probs(prompt, response, temperature))


@functools.cache
def policy(
    folder: Path,
    rollout: Rollout,
    algorithm: str,
    temperature: float = 1.0,
    lora_rank: int = 0,
    correction: str = "off",
) -> Part:
    found = data(folder, rollout, temperature, lora_rank)
    return of(folder, lora_rank).policy(found, algorithm, temperature, correction=correction)


@functools.cache
def nll(folder: Path, rollout: Rollout, mean_over: str, lora_rank: int = 0) -> Part | None:
    found = data(folder, rollout, lora_rank=lora_rank)
    return of(folder, lora_rank).nll(found.rows, mean_over, rollout.questions)
