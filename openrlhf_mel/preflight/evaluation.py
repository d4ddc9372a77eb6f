"""GPU memory and hours of an evaluation, by the same arithmetic and assumptions as those of a training step."""

from __future__ import annotations

from dataclasses import dataclass

from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight import memory, shapes, throughput, workload
from openrlhf_mel.preflight.lengths import Responses
from openrlhf_mel.preflight.shapes import Shape

UTILIZATION = 0.9  # vLLM's default share of a card
SEQUENCES = 256  # at once, as eval.run asks of an engine
MEAN_QUESTION, LONGEST_PROMPT = workload.MEAN_QUESTION, workload.LONGEST_QUESTION


@dataclass(frozen=True)
class EvaluationEngine:
    """A vLLM engine of `engine_ranks` GPUs; see `throughput.Decoder`."""

    shape: Shape
    card: throughput.Card
    engine_ranks: int
    kv_tokens: int
    at_once: int = SEQUENCES


@dataclass(frozen=True)
class EvaluationCost:
    """What an evaluation takes.

    Attributes:
        max_tokens: of a response; less than was asked for where the model has less room.
        mean_tokens: of a response, assumed.
        tokens: of all responses.
        weights, cache: bytes of a GPU.
        at_once: sequences that an engine decodes together.
        seconds: of the whole evaluation.
    """

    max_tokens: int
    mean_tokens: float
    tokens: float
    weights: float
    cache: float
    at_once: int
    seconds: float


def cost(
    model: str, gpu: str, gpus: int, tensor_parallel: int, responses: int, max_tokens: int, mean_tokens: int | None
) -> EvaluationCost:
    """Of `responses` responses on `gpus` GPUs, by engines of `tensor_parallel` of them each.

    Args:
        gpu: a name of `cards.yaml`.
        mean_tokens: of a response; None: the share of `max_tokens` that a training is assumed to have.

    Raises:
        UserError: the model's shape is not known, it does not fit, or a number cannot be used.
    """
    if gpu not in workload.cards():
        raise UserError(f"--gpu {gpu}: expected one of {', '.join(sorted(workload.cards()))}")
    if min(gpus, tensor_parallel) < 1 or gpus % tensor_parallel:
        raise UserError(
            f"--gpus {gpus}, --tensor-parallel {tensor_parallel}: expected GPUs in whole engines, and positive numbers"
        )
    if max_tokens < 1:
        raise UserError(f"--max-tokens {max_tokens}: expected the tokens of the longest response, at least 1")
    shape, source = shapes.find(model)
    if shape is None:
        raise UserError(f"--model {source}")
    hw = workload.hardware(gpu, None, None, None)
    parts = memory.awake(shape, hw.memory_gib * workload.USABLE * memory.GIB, tensor_parallel, UTILIZATION)
    cache = parts[memory.KV_CACHE]
    room = _longest(model, shape, max_tokens, mean_tokens)
    kv_tokens = int(cache / shape.kv_bytes(tensor_parallel))
    if kv_tokens < room + LONGEST_PROMPT:
        raise UserError(
            f"--gpu {gpu}: {model} leaves a cache of {kv_tokens:,} tokens on {tensor_parallel} of them, less than the one "
            f"sequence of {room + LONGEST_PROMPT:,}; raise --tensor-parallel"
        )
    lengths = Responses(mean_tokens or max(1, round(workload.RESPONSE_SHARE * room)), room)
    engine = EvaluationEngine(shape, hw.card, tensor_parallel, kv_tokens)
    each = responses / (gpus // tensor_parallel)
    seconds = throughput.decode_seconds(engine, each, MEAN_QUESTION, lengths.longer, lengths.span)
    fits = int(kv_tokens / (MEAN_QUESTION + lengths.average / 2))
    at_once = max(1, min(SEQUENCES, fits))
    total = responses * lengths.average
    return EvaluationCost(room, lengths.average, total, parts[memory.ENGINE_WEIGHTS], cache, at_once, seconds)


def _longest(model: str, shape: Shape, max_tokens: int, mean_tokens: int | None) -> int:
    """Tokens of the longest response; refuses a mean that it cannot have."""
    room = min(max_tokens, shape.positions - LONGEST_PROMPT)
    if room < 1:
        raise UserError(
            f"--model {model}: has {shape.positions:,} positions, expected more than the {LONGEST_PROMPT:,} of a prompt; "
            "choose another"
        )
    if mean_tokens is not None and not 1 <= mean_tokens <= room:
        raise UserError(
            f"--mean-tokens {mean_tokens}: expected 1 to {room}, the longest response of --max-tokens {max_tokens} here; "
            "change one of the two, or leave --mean-tokens out"
        )
    return room
