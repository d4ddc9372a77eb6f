"""Tokens and hours of a step, from arithmetic and stated assumptions: an order of magnitude, not a promise. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from openrlhf_mel.preflight.lengths import Budget, Responses
from openrlhf_mel.preflight.shapes import Shape

# Assumed; the report lists each (docs/preflight.md compares the resulting estimates with published runs).
MFU = 0.30  # share of a card's dense bf16 throughput in training and in forward passes without gradients
PREFILL = 0.40  # the same in an engine's prefill
DECODE_COMPUTE = 0.50  # and in decoding
DECODE_BANDWIDTH = 0.60  # share of the memory bandwidth in decoding
DECODE_STEP_S = 0.005  # scheduling and launches of one decoding step
ENGINE_SEQUENCES = (
    128  # at once: vLLM's max_num_seqs for engines made from their arguments, which upstream does not change
)
HAND_OVER_S = 0.02  # per parameter tensor: upstream gathers and sends them one by one
LINK = 20e9  # bytes/s between a GPU and its host
MIXED = 0.5  # share of questions with a correct and an incorrect complete response
RETAINED = 0.5  # share of candidates that are kept (the paper's figure 9: 0.2 to 0.8)
M_LENGTH = 0.5  # mean length of M as a share of its maximum
_POINTS = 200

ASSUMPTIONS = {
    "mfu": MFU,
    "prefill_utilization": PREFILL,
    "decode_compute_utilization": DECODE_COMPUTE,
    "decode_bandwidth_utilization": DECODE_BANDWIDTH,
    "decode_step_seconds": DECODE_STEP_S,
    "engine_sequences": ENGINE_SEQUENCES,
    "hand_over_seconds_per_tensor": HAND_OVER_S,
    "link_bytes_per_second": LINK,
    "mixed_share": MIXED,
    "retained_share": RETAINED,
    "m_mean_share_of_maximum": M_LENGTH,
}


@dataclass(frozen=True)
class Card:
    """A GPU: dense bf16 FLOP/s and bytes/s."""

    flops: float
    bandwidth: float


class Decoder(Protocol):
    """An engine of `engine_ranks` GPUs that decodes at most `at_once` sequences, with a cache of `kv_tokens` tokens."""

    @property
    def shape(self) -> Shape: ...
    @property
    def card(self) -> Card: ...
    @property
    def engine_ranks(self) -> int: ...
    @property
    def kv_tokens(self) -> int: ...
    @property
    def at_once(self) -> int: ...


@dataclass(frozen=True)
class Work:
    """The work and the hardware of a step.

    Attributes:
        ranks: GPUs of the policy; `engines` engines of `engine_ranks` GPUs each, whose cache holds `kv_tokens` tokens.
        questions, group: of a rollout; `candidates` pairs a mixed question, `replays` of each M.
        epochs: passes over a rollout's samples.
    """

    shape: Shape
    card: Card
    ranks: int
    engines: int
    engine_ranks: int
    kv_tokens: int
    questions: int
    group: int
    responses: Responses
    budget: Budget
    checkpointing: bool
    epochs: int = 1
    candidates: int = 1
    replays: int = 1
    learns: bool = True
    at_once: int = ENGINE_SEQUENCES
    offloaded: float = 0.0  # bytes per GPU that move to host memory and back in a step


@dataclass
class StepEstimate:
    """Tokens by kind, and seconds by phase, of one step."""

    tokens: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.seconds.values())


def decode_seconds(
    work: Decoder, sequences: float, prompt: float, longer: Callable[[float], float], span: float
) -> float:
    """Seconds in which one engine decodes `sequences` responses to prompts of `prompt` tokens.

    Each decoding step reads the weights and the running sequences' KV cache once (memory-bound), or multiplies (compute-
    bound), whichever takes longer. Sequences wait while the engine is full; the last ones to start run until the longest
    of them ends. `longer(t)` is the share of responses longer than t tokens, none beyond `span`.
    """
    if sequences <= 0:
        return 0.0
    step = span / _POINTS
    times = [(i + 0.5) * step for i in range(_POINTS)]
    average = sum(longer(t) for t in times) * step
    fit = max(1.0, work.kv_tokens / (prompt + average / 2))
    at_once = min(sequences, work.at_once, fit)
    full = (sequences - at_once) * average / at_once * _step_seconds(work, at_once, prompt + average / 2)
    tail = sum(_step_seconds(work, at_once * longer(t), prompt + t) for t in times if at_once * longer(t) >= 0.5)
    prefill = 2 * work.shape.multiplied * prompt * sequences / (work.engine_ranks * work.card.flops * PREFILL)
    return full + tail * step + prefill


def _step_seconds(work: Decoder, running: float, context: float) -> float:
    shape, n = work.shape, work.engine_ranks
    read = 2 * shape.multiplied / n + running * context * shape.kv_bytes(n)
    multiply = 2 * shape.multiplied * running / n
    return DECODE_STEP_S + max(
        read / (work.card.bandwidth * DECODE_BANDWIDTH), multiply / (work.card.flops * DECODE_COMPUTE)
    )


def training_flops(shape: Shape, tokens: float, context: float, checkpointing: bool) -> float:
    """Forward and backward: 6 per parameter and token, 8 with checkpointing, plus attention over `context` tokens."""
    passes = 4 if checkpointing else 3
    return passes * (2 * shape.multiplied + 2 * shape.layers * shape.q * context) * tokens


def estimate(work: Work) -> StepEstimate:
    """Tokens and seconds of a step."""
    e = StepEstimate()
    budget, responses = work.budget, work.responses
    samples = work.questions * work.group
    prompt = budget.question + budget.mean_question
    written = responses.average
    e.tokens["rollout"] = samples * written
    e.tokens["prompts"] = samples * prompt
    e.seconds["rollout"] = decode_seconds(work, samples / work.engines, prompt, responses.longer, responses.span)
    rows = row = 0.0
    if work.learns:
        pairs = work.questions * MIXED * work.candidates
        m = budget.m * M_LENGTH
        context = min(budget.max_len - budget.m, budget.average_context + 2 * written)
        again = Responses(responses.mean, budget.replay_response, responses.spread)
        e.tokens["M"] = pairs * m
        e.tokens["replays"] = pairs * work.replays * again.average
        writing = _uniform_m(budget.m)
        e.seconds["M and replay"] = decode_seconds(work, pairs / work.engines, context, writing, budget.m)
        e.seconds["M and replay"] += decode_seconds(
            work, pairs * work.replays / work.engines, budget.replay + prompt + m, again.longer, again.span
        )
        rows, row = pairs * RETAINED, context + m
    tokens = samples * (prompt + written)
    speed = work.ranks * work.card.flops * MFU
    forward = (2 * work.shape.multiplied + 2 * work.shape.layers * work.shape.q * (prompt + written)) * tokens
    e.seconds["log-probs"] = forward / speed
    e.seconds["policy update"] = (
        work.epochs * training_flops(work.shape, tokens, prompt + written, work.checkpointing) / speed
    )
    e.tokens["trained"] = work.epochs * tokens
    if work.learns:
        e.tokens["NLL"] = work.epochs * rows * row
        e.seconds["NLL update"] = training_flops(work.shape, e.tokens["NLL"], row, work.checkpointing) / speed
    e.seconds["hand-over"] = work.shape.tensors * HAND_OVER_S + 2 * work.shape.parameters / LINK
    e.seconds["hand-over"] += 2 * work.offloaded / LINK
    return e


def _uniform_m(cap: int) -> Callable[[float], float]:
    """M's length: uniform up to its maximum, so that half of it is the mean."""
    return lambda tokens: max(0.0, 1 - tokens / cap)
