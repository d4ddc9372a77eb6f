"""A run's settings -> the inputs of the estimates: lengths, micro-batches, ranks, and the work of a step."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from openrlhf_mel.preflight import memory, throughput
from openrlhf_mel.preflight.files import Tokens
from openrlhf_mel.preflight.lengths import Budget, Responses
from openrlhf_mel.preflight.shapes import Shape
from openrlhf_mel.prompts import Templates
from openrlhf_mel.settings import batches
from openrlhf_mel.settings.contradictions import LEAST
from openrlhf_mel.settings.placement import placement
from openrlhf_mel.settings.resolve import Settings

USABLE = 0.99  # of a card's memory as sold: 79.2 of "80 GB" (docs/preflight.md)
CHAT = 16  # assumed tokens of a chat template around a user's turn
# Where the data cannot be read:
MEAN_QUESTION, LONGEST_QUESTION = 100, 1024
RESPONSE_SHARE = 0.4  # mean length of a response as a share of rollout.max_new_tokens


@dataclass(frozen=True)
class Hardware:
    """A kind of GPU and how many there are; None when the command line does not say."""

    name: str
    memory_gib: float
    card: throughput.Card
    nodes: int | None
    gpus_per_node: int | None


@cache
def cards() -> dict[str, dict[str, float]]:
    """`cards.yaml`."""
    found: dict[str, dict[str, float]] = yaml.safe_load(
        Path(__file__).with_name("cards.yaml").read_text(encoding="utf-8")
    )
    return found


def hardware(name: str, memory_gib: float | None, nodes: int | None, gpus_per_node: int | None) -> Hardware:
    """A card by its name; `memory_gib` wins over the table's."""
    card = cards()[name]
    speed = throughput.Card(card["tflops"] * 1e12, card["bandwidth"] * 1e12)
    return Hardware(name, memory_gib or card["memory"], speed, nodes, gpus_per_node)


def usable(settings: Settings) -> Settings:
    """The settings with values clamped to their ranges, so that the rest can be estimated."""
    values = dict(settings.upstream)
    for name, least in LEAST.items():
        if values[name] is not None:
            values[name] = max(values[name], least)
    values["ds.zero_stage"] = min(3, max(1, values["ds.zero_stage"]))
    for name in ("ds.ring_attn_size", "ds.tensor_parallel_size", "ref.num_nodes", "ref.num_gpus_per_node"):
        values[name] = max(1, values[name])
    values["vllm.gpu_memory_utilization"] = min(1.0, max(0.01, values["vllm.gpu_memory_utilization"]))
    return dataclasses.replace(settings, upstream=values)


def budget(
    settings: Settings, templates: Templates, tokens: Tokens, mean_question: int, longest_question: int
) -> Budget:
    """The parts of each context, in tokens: templates are counted, the rest is given."""
    values, mel = settings.upstream, settings.mel
    chat = CHAT if values["data.apply_chat_template"] else 0
    question = (values["data.input_template"] or templates.texts["question.txt"]).replace("{{question}}", "")
    texts = [question, templates.analysis("", "", ""), templates.replay("", "")]
    asked, instruction, replay = (count + chat for count in tokens.count(texts))
    room = values["data.max_len"] - asked - longest_question
    return Budget(
        max_len=values["data.max_len"],
        instruction=instruction,
        question=asked,
        replay=replay - chat,
        mean_question=mean_question,
        longest_question=longest_question,
        response=values["rollout.max_new_tokens"] or max(1, room),
        m=(mel.max_new_tokens or 0) if mel.enable else 0,
        replay_response=mel.replay_max_new_tokens or 1,
    )


def memory_plan(
    settings: Settings, shape: Shape, hw: Hardware, lengths: Budget, responses: Responses
) -> memory.MemoryPlan:
    """The largest micro-batches, and the settings of sharding, sleep and recomputation."""
    values, mel = settings.upstream, settings.mel
    ranks, dynamic = batches.ranks(values), values["train.dynamic_batch_enable"]
    learns = mel.enable and mel.nll_coef > 0
    sequence = lengths.sequence
    row = (
        lengths.row if mel.context == "retrospective" else min(lengths.max_len, sequence - lengths.response + lengths.m)
    )
    most = values["train.max_tokens_per_gpu"]
    micro = values["train.micro_batch_size"]
    lora = values["ds.lora.rank"]
    reference = placement(values).reference
    copies = values["algo.kl.init_coef"] > 0 and not values["ref.offload"] and not reference
    return memory.MemoryPlan(
        shape=shape,
        card=hw.memory_gib * USABLE * memory.GIB,
        ranks=ranks,
        trained=shape.lora(lora, values["ds.lora.target_modules"]) if lora else shape.parameters,
        policy_tokens=max(most, sequence) if dynamic else micro * sequence,
        log_prob_tokens=_log_prob_tokens(settings, lengths, responses),
        nll_tokens=(max(most, row) if dynamic else micro * row) if learns else 0,
        sequence=sequence,
        row=row,
        stage=values["ds.zero_stage"],
        zpg=values["ds.zpg"],
        checkpointing=values["actor.gradient_checkpointing_enable"],
        offload=values["ds.adam_offload"],
        overlap=values["ds.overlap_comm"],
        temperature=values["rollout.temperature"],
        entropy=values["actor.entropy_coef"] is not None,
        accumulates=dynamic or values["train.batch_size"] > micro * ranks,
        learns=learns,
        copies=copies + values["train.enable_ema"],
        reference_ranks=0 if values["ref.offload"] else reference,
        max_len=values["data.max_len"],
        engines=values["vllm.num_engines"],
        engine_ranks=values["vllm.tensor_parallel_size"],
        utilization=values["vllm.gpu_memory_utilization"],
        graphs=not values["vllm.enforce_eager"],
        shared=values["train.colocate_all"] and not values["train.async_enable"],
        engine_sleeps=values["vllm.enable_sleep"],
        policy_sleeps=values["ds.enable_sleep"],
    )


def _log_prob_tokens(settings: Settings, lengths: Budget, responses: Responses) -> int:
    """Tokens of the largest batch whose log-probabilities are computed.

    With dynamic batches upstream rounds their number down to a multiple of the ranks, so that each may hold almost twice
    `rollout.max_tokens_per_gpu` (`trainer/ppo_utils/experience_maker.py: split_rollout_samples`).
    """
    values = settings.upstream
    if not values["train.dynamic_batch_enable"]:
        rows: int = values["rollout.micro_batch_size"]
        return rows * lengths.sequence
    most: int = values["rollout.max_tokens_per_gpu"] or values["train.max_tokens_per_gpu"]
    samples: int = values["rollout.batch_size"] * values["rollout.n_samples_per_prompt"]
    total = samples * (lengths.question + lengths.mean_question + responses.average)
    ranks = batches.ranks(values)
    count = max(ranks, math.ceil(total / most) // ranks * ranks)
    return max(lengths.sequence, math.ceil(total / count))


def work(
    settings: Settings, plan: memory.MemoryPlan, hw: Hardware, lengths: Budget, responses: Responses
) -> throughput.Work:
    """The work of a step."""
    values, mel = settings.upstream, settings.mel
    moved = 3 * memory.FP32 * plan.trained / plan.ranks if plan.policy_sleeps else 0
    moved += memory.BF16 * plan.shape.parameters / plan.engine_ranks if plan.shared and plan.engine_sleeps else 0
    return throughput.Work(
        shape=plan.shape,
        card=hw.card,
        ranks=plan.ranks,
        engines=plan.engines,
        engine_ranks=plan.engine_ranks,
        kv_tokens=memory.kv_tokens(plan),
        questions=values["rollout.batch_size"],
        group=values["rollout.n_samples_per_prompt"],
        responses=responses,
        budget=lengths,
        checkpointing=plan.checkpointing,
        epochs=values["train.max_epochs"],
        candidates=mel.pairs_per_question,
        replays=mel.replays if mel.validation == "replay" else 0,
        learns=mel.enable,
        offloaded=moved,
    )
