"""Memory of a GPU by part, in each phase of a step: the policy's (DeepSpeed ZeRO), the engine's (vLLM), and both where
they share it. In bytes, by arithmetic alone; docs/preflight.md has the sources and the differences from measurements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from openrlhf_mel.method.nll_chunks import chunk_length
from openrlhf_mel.preflight.shapes import Shape

GIB = 2**30
BF16, FP32 = 2, 4
# DeepSpeed's defaults, which upstream does not change ("auto"), in elements.
_BUCKET = 500_000_000  # reduce_bucket_size
_LIVE = 1_050_000_000  # stage3_max_live_parameters and prefetched parameters
# Assumed: CUDA context, cuBLAS and NCCL of a training process.
_PROCESS = 1.5 * GIB
# Measured on an H100 with vLLM 0.19 (docs/preflight.md), all within its share: activations, memory that torch does not
# count, and CUDA graphs, which vLLM estimates and takes from the KV cache since 0.21 (before, they came on top).
_ENGINE_WORK = 2.25 * GIB
_ENGINE_OTHER, _ENGINE_NCCL = 0.27 * GIB, 2.1 * GIB  # alone on its GPU, or tensor parallel
_ENGINE_GRAPHS = 1.0 * GIB
_ENGINE_ASLEEP = 1.0 * GIB  # assumed: graphs and context, in addition to the above

WEIGHTS, GRADIENTS, OPTIMIZER, BUFFERS = "weights", "gradients", "optimizer", "buffers"
ACTIVATIONS, LOGITS, COPIES, PROCESS = "activations", "logits", "other models", "process"
ENGINE_WEIGHTS, KV_CACHE, ENGINE_REST = "vLLM weights", "vLLM KV cache", "vLLM rest"
PARTS = (
    WEIGHTS, GRADIENTS, OPTIMIZER, BUFFERS, ACTIVATIONS, LOGITS, COPIES, PROCESS, ENGINE_WEIGHTS, KV_CACHE, ENGINE_REST,
)  # fmt: skip
ROLLOUT, LOG_PROBS, POLICY, NLL, STEP = "rollout", "log-probs", "policy", "NLL", "step"
Parts = dict[str, float]


@dataclass(frozen=True)
class MemoryPlan:
    """The quantities that determine the memory of a run.

    Attributes:
        card: bytes of a GPU that programs can use.
        ranks: data-parallel ranks of the policy; `stage` and `zpg` are ZeRO's.
        trained: parameters with gradients and optimizer states: all, or LoRA's.
        policy_tokens, log_prob_tokens, nll_tokens: tokens of the largest micro-batch of each pass.
        sequence, row: tokens of the longest sequence of the policy loss, and of the longest row of the NLL.
        accumulates: whether an optimizer step has several micro-batches.
        learns: whether meta-experiences are learned.
        copies: other models of the same size on the policy's GPUs (reference, moving average).
        reference_ranks: GPUs of a reference model that has its own.
        utilization: vLLM's share of the card; `engine_ranks` its tensor parallelism.
        shared: engines run on the policy's GPUs; then `engine_sleeps` and `policy_sleeps` matter.
    """

    shape: Shape
    card: float
    ranks: int
    trained: int
    policy_tokens: int
    log_prob_tokens: int
    nll_tokens: int
    sequence: int
    row: int
    stage: int = 2
    zpg: int = 1
    checkpointing: bool = False
    offload: bool = False
    overlap: bool = False
    temperature: float = 1.0
    entropy: bool = False
    accumulates: bool = True
    learns: bool = True
    copies: int = 0
    reference_ranks: int = 0
    max_len: int = 4096
    engines: int = 1
    engine_ranks: int = 1
    utilization: float = 0.95
    graphs: bool = True
    shared: bool = False
    engine_sleeps: bool = False
    policy_sleeps: bool = False


def layer_bytes(shape: Shape) -> int:
    """Bytes that autograd keeps of one layer for one token, in transformers' own modules with flash attention.

    Korthikanti et al. (arXiv 2205.05198, Eq. 1) for grouped-query attention, SwiGLU, RMSNorm and no dropout: a norm keeps
    its input in fp32, its result before and after the scale (the latter is the next matrices' input); attention its
    q, k, v, output and fp32 log-sum-exp; SwiGLU gate, activation, up and their product.
    """
    norm = FP32 * shape.hidden + 2 * BF16 * shape.hidden + FP32
    head_norms = (6 * (shape.q + shape.kv) + FP32 * (shape.heads + shape.kv_heads)) if shape.qk_norm else 0
    attention = BF16 * (2 * shape.q + 2 * shape.kv) + FP32 * shape.heads
    return 2 * norm + head_norms + attention + 4 * BF16 * shape.ffn


def training_pass(plan: MemoryPlan, tokens: int, nll: bool = False) -> Parts:
    """Activations and logits of a forward and backward pass, at the larger of its two peaks.

    One peak is at the head, with all stored activations and the logits' gradients; the other is within a layer that is
    recomputed or differentiated, with its own activations. Upstream keeps the fp32 logits of the whole micro-batch
    until the backward pass ends (`models/actor.py`). The backward pass adds their gradient, that of the division by a
    temperature, and the bf16 one: 10 bytes per entry, or 12, and 16 with an entropy.
    """
    s = plan.shape
    stored = s.layers * (BF16 * s.hidden if plan.checkpointing else layer_bytes(s)) * tokens
    if nll:
        # An upper bound, as if all tokens were M's: with checkpointing the layer's peak is still higher (Qwen3-4B and
        # larger).
        entries, at_head, kept = s.vocabulary * min(chunk_length(tokens), tokens), BF16 + 3 * FP32, 0
    else:
        entries, kept = s.vocabulary * tokens, FP32
        at_head = 16 if plan.entropy else 10 if plan.temperature == 1 else 12
    head: Parts = {ACTIVATIONS: stored + 9 * s.hidden * tokens, LOGITS: at_head * entries}
    within = max(2 * BF16 * s.ffn + 3 * s.hidden, 12 * s.hidden) + plan.checkpointing * layer_bytes(s)
    layer: Parts = {ACTIVATIONS: stored + within * tokens, LOGITS: kept * entries}
    return max(head, layer, key=lambda parts: sum(parts.values()))


def inference_pass(shape: Shape, tokens: int) -> Parts:
    """A forward pass without gradients: one layer's activations; bf16 logits and their fp32 copy."""
    return {ACTIVATIONS: 6 * (shape.ffn + shape.hidden) * tokens, LOGITS: (BF16 + FP32) * shape.vocabulary * tokens}


def gradient_bytes(plan: MemoryPlan, moment: str) -> float:
    """bf16 gradients of a rank (Rajbhandari et al., arXiv 1910.02054, and DeepSpeed 0.19's source).

    ZeRO-1 keeps all gradients and adds its own partition at the end of an optimizer step. ZeRO-2 keeps an accumulated
    partition and that of the current micro-batch, ZeRO-3 one partition throughout. Learning Ms sets one more aside.
    """
    part = BF16 * plan.trained / plan.ranks
    if moment in (ROLLOUT, LOG_PROBS):
        return part if plan.stage == 3 and not plan.offload else 0
    if plan.offload:
        return part
    if moment == STEP:
        return part
    whole = {1: BF16 * plan.trained + part, 2: part * (2 if plan.accumulates else 1), 3: part}[plan.stage]
    return whole + (part if moment == NLL and plan.learns else 0)


def policy(plan: MemoryPlan, moment: str) -> Parts:
    """A policy GPU's parts at `moment`, without the engine."""
    s, n = plan.shape, plan.ranks
    asleep = plan.policy_sleeps and moment in (ROLLOUT, LOG_PROBS)
    weights = BF16 * s.parameters * (1 if plan.stage < 3 else 1 / n + (1 / plan.zpg if plan.zpg > 1 else 0))
    parts = {
        WEIGHTS: weights,
        GRADIENTS: 0 if asleep else gradient_bytes(plan, moment),
        # fp32 weights and Adam's two moments; the partition's gradient becomes fp32 for the step
        OPTIMIZER: 0 if asleep or plan.offload else 3 * FP32 * plan.trained / n,
        COPIES: plan.copies * BF16 * s.parameters / (n if plan.stage == 3 else 1),
        PROCESS: _PROCESS,
    }
    if moment == STEP and not plan.offload:
        parts[OPTIMIZER] += FP32 * min(plan.trained / n, 1e9 if plan.stage == 3 else plan.trained)
    if moment in (LOG_PROBS, POLICY, NLL) and plan.stage == 3:
        parts[BUFFERS] = BF16 * min(s.parameters * (1 - 1 / n), _LIVE)
    if moment in (POLICY, NLL):
        double = plan.overlap and plan.stage < 3
        parts[BUFFERS] = parts.get(BUFFERS, 0) + BF16 * _BUCKET * (2 if double else 1)
        tokens = plan.nll_tokens if moment == NLL else plan.policy_tokens
        parts |= training_pass(plan, tokens, moment == NLL)
    elif moment == LOG_PROBS:
        parts |= inference_pass(s, plan.log_prob_tokens)
    return parts


def engine(plan: MemoryPlan, asleep: bool = False) -> Parts:
    """An engine GPU's parts: vLLM takes its share of the card, and fills the rest of it with KV cache."""
    if asleep:
        return {ENGINE_REST: _engine_other(plan.engine_ranks) + _ENGINE_ASLEEP}
    return awake(plan.shape, plan.card, plan.engine_ranks, plan.utilization, plan.graphs)


def awake(shape: Shape, card: float, ranks: int, utilization: float, graphs: bool = True) -> Parts:
    """The parts of a GPU of `card` bytes, one of the `ranks` of a vLLM engine."""
    weights = BF16 * shape.parameters / ranks
    rest = _engine_other(ranks) + _ENGINE_WORK + graphs * _ENGINE_GRAPHS
    return {
        ENGINE_WEIGHTS: weights,
        KV_CACHE: max(0.0, utilization * card - weights - rest),
        ENGINE_REST: rest,
    }


def _engine_other(ranks: int) -> float:
    return _ENGINE_OTHER if ranks == 1 else _ENGINE_NCCL


def kv_tokens(plan: MemoryPlan) -> int:
    """Tokens that the KV cache of one engine holds."""
    return int(engine(plan)[KV_CACHE] / plan.shape.kv_bytes(plan.engine_ranks))


@dataclass(frozen=True)
class DeviceMemory:
    """One kind of GPU: what runs on it, how many there are, and its parts in each phase."""

    role: str
    count: int
    moments: dict[str, Parts]

    def peak(self) -> tuple[str, float]:
        """The phase with the most bytes, and their number."""
        totals = {moment: sum(parts.values()) for moment, parts in self.moments.items()}
        moment = max(totals, key=lambda m: totals[m])
        return moment, totals[moment]


def devices(plan: MemoryPlan) -> Iterator[DeviceMemory]:
    """A run's kinds of GPU, each with its parts in each phase."""
    moments = [ROLLOUT, LOG_PROBS, POLICY, *([NLL] if plan.learns else []), STEP]
    if plan.shared:
        both = {m: policy(plan, m) | engine(plan, plan.engine_sleeps and m != ROLLOUT) for m in moments}
        yield DeviceMemory("policy and engine", plan.ranks, both)
    else:
        yield DeviceMemory("policy", plan.ranks, {m: policy(plan, m) for m in moments})
        yield DeviceMemory("engine", plan.engines * plan.engine_ranks, {ROLLOUT: engine(plan)})
    if n := plan.reference_ranks:
        idle = dataclasses.replace(plan, ranks=n, trained=0, copies=0, zpg=1, policy_sleeps=False)
        yield DeviceMemory("reference", n, {LOG_PROBS: policy(idle, LOG_PROBS)})


def peak(plan: MemoryPlan) -> float:
    """Bytes of a policy GPU in its worst phase."""
    return next(devices(plan)).peak()[1]


def checkpoint_bytes(parameters: int, trained: int, stage: int) -> float:
    """A DeepSpeed checkpoint: fp32 weights and Adam's moments of what is trained; except under ZeRO-3 bf16 weights."""
    return 3 * FP32 * trained + (BF16 * parameters if stage < 3 else 0)
