"""Sizes that do not fit each other, and errors that upstream would detect only after Ray or the first step has started.

The checks of `settings/contradictions.py` are not repeated here. Names of upstream's files are those of OpenRLHF
0.11.2.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from openrlhf_mel.preflight.problems import Problem, warning
from openrlhf_mel.preflight.shapes import Shape
from openrlhf_mel.settings.batches import ranks, samples_unit
from openrlhf_mel.settings.placement import Placement
from openrlhf_mel.settings.resolve import Settings

Values = dict[str, Any]
# Values of transformers' SchedulerType that upstream's call can build (`utils/deepspeed/deepspeed.py`).
SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr",
)  # fmt: skip


def batches(values: Values) -> Iterator[Problem]:
    """A rollout whose last optimizer step is smaller than the others."""
    samples, size = values["rollout.batch_size"] * values["rollout.n_samples_per_prompt"], values["train.batch_size"]
    if samples % size:
        yield warning(
            f"--train.batch_size {size}: does not divide a rollout's {samples} samples; its last optimizer step has "
            f"{samples % size}"
        )


def episode(values: Values, rows: int) -> Iterator[Problem]:
    """The last rollout of an episode, which has the rest of the data."""
    group, batch, n = values["rollout.n_samples_per_prompt"], values["rollout.batch_size"], ranks(values)
    rows = min(rows, values["data.max_samples"])
    if rows * group < values["train.batch_size"]:
        yield Problem(
            f"--data.prompt_dataset: {rows} questions x {group} samples make no optimizer step of --train.batch_size "
            f"{values['train.batch_size']}; expected at least {-(-values['train.batch_size'] // group)} questions"
        )
        return
    left = rows % batch
    dynamic = values["train.batch_size"] if values["train.dynamic_batch_enable"] else None
    unit = samples_unit(n, values["rollout.micro_batch_size"], values["train.micro_batch_size"], dynamic)
    used = left * group // math.lcm(group, unit) * math.lcm(group, unit) // group
    if used < left:
        yield warning(
            f"--data.prompt_dataset: the last rollout of an episode has {left} of {rows} questions, of which {left - used} "
            f"do not divide over {n} ranks and are left out; --data.max_samples {rows - left + used} saves their time"
        )


def allocation(values: Values, gpus: Placement, nodes: int | None, per_node: int | None) -> Iterator[Problem]:
    """GPUs that upstream places (`cli/train_ppo_ray.py: train`) against those of the job."""
    tp = values["vllm.tensor_parallel_size"]
    if values["algo.kl.init_coef"] > 0 and (values["train.colocate_all"] or values["train.colocate_actor_ref"]):
        for kind in ("num_nodes", "num_gpus_per_node"):
            if values[f"actor.{kind}"] != values[f"ref.{kind}"]:
                yield Problem(
                    f"--ref.{kind} {values[f'ref.{kind}']}: expected {values[f'actor.{kind}']}, as --actor.{kind}: they "
                    "share GPUs"
                )
    if values["ds.enable_sleep"] and not values["train.colocate_all"]:
        yield warning("--ds.enable_sleep: moves the policy's states about every step, for nothing without colocation")
    if nodes is None or per_node is None:
        return
    have = nodes * per_node
    if gpus.total > have:
        yield Problem(
            f"the allocation has {have} GPUs ({nodes} x {per_node}), expected {gpus.total}: {gpus.actors} for the policy, "
            f"{gpus.engines} for engines, {gpus.reference} for the reference model, {gpus.rewards} for reward models; "
            + _fit(values, gpus, nodes, per_node)
        )
    elif gpus.total < have:
        yield warning(
            f"the allocation has {have} GPUs ({nodes} x {per_node}), of which {have - gpus.total} stay idle: "
            f"{gpus.actors} for the policy, {gpus.engines} for engines; {_fit(values, gpus, nodes, per_node)}"
        )
    if tp > per_node or per_node % tp:
        yield warning(
            f"--vllm.tensor_parallel_size {tp}: an engine would lie across nodes of {per_node} GPUs, which is slow; expected "
            f"a divisor of {per_node}"
        )


def _fit(values: Values, gpus: Placement, nodes: int, per_node: int) -> str:
    """The change by which a run uses the whole allocation."""
    tp = values["vllm.tensor_parallel_size"]
    if gpus.shared:
        return (
            f"set --actor.num_nodes {nodes} --actor.num_gpus_per_node {per_node} --vllm.num_engines "
            f"{nodes * per_node // tp}, or change the allocation"
        )
    have = nodes * per_node
    left = have - gpus.actors - gpus.reference - gpus.rewards
    if left >= tp:
        return f"set --vllm.num_engines {left // tp}, or change the allocation"
    if gpus.reference:
        return (
            "let the reference model share the policy's GPUs: --train.colocate_actor_ref, with --ref.num_nodes and "
            "--ref.num_gpus_per_node as the policy's; or change the allocation"
        )
    actors = (nodes // 2, per_node) if nodes > 1 else (1, per_node // 2)
    engines = (have - actors[0] * actors[1]) // tp
    if not actors[1] or not engines:
        return "share GPUs with --train.colocate_all, or change the allocation"
    return (
        f"set --actor.num_nodes {actors[0]} --actor.num_gpus_per_node {actors[1]} --vllm.num_engines {engines}, share GPUs "
        "with --train.colocate_all, or change the allocation"
    )


def model(values: Values, shape: Shape) -> Iterator[Problem]:
    """Sizes of a model that vLLM refuses at its start."""
    tp, max_len = values["vllm.tensor_parallel_size"], values["data.max_len"]
    if shape.heads % tp:
        yield Problem(
            f"--vllm.tensor_parallel_size {tp}: does not divide the model's {shape.heads} attention heads; vLLM refuses it"
        )
    elif max(tp, shape.kv_heads) % min(tp, shape.kv_heads):
        yield Problem(
            f"--vllm.tensor_parallel_size {tp}: does not fit the model's {shape.kv_heads} key-value heads; expected a "
            "divisor or a multiple"
        )
    if max_len > shape.positions:
        yield Problem(
            f"--data.max_len {max_len}: the model has {shape.positions} positions (max_position_embeddings); vLLM refuses "
            "more"
        )


def switches(settings: Settings) -> Iterator[Problem]:
    """Values that upstream checks late or not at all."""
    values = settings.upstream
    if values["rollout.temperature"] <= 0:
        yield Problem(
            f"--rollout.temperature: found {values['rollout.temperature']}, expected more than 0: upstream divides the "
            "policy's logits by it"
        )
    for flag in ("rollout.top_p", "vllm.gpu_memory_utilization"):
        if not 0 < values[flag] <= 1:
            yield Problem(f"--{flag}: found {values[flag]}, expected more than 0 and at most 1")
    for flag in ("actor.lr_warmup_ratio", "actor.min_lr_ratio"):
        if not 0 <= values[flag] <= 1:
            yield Problem(f"--{flag}: found {values[flag]}, expected 0 to 1")
    if values["actor.lr_scheduler"] not in SCHEDULERS:
        yield Problem(
            f"--actor.lr_scheduler: found {values['actor.lr_scheduler']!r}, expected one of {', '.join(SCHEDULERS)}"
        )
    threshold = values["algo.advantage.is_correction_threshold"]
    if len(threshold) > 2:
        yield Problem(
            f"--algo.advantage.is_correction_threshold: found {len(threshold)} values, expected HIGH or LOW HIGH"
        )
    if values["algo.dynamic_filtering_enable"]:
        low, high = values["algo.dynamic_filtering_range"]
        if low >= high:
            yield Problem(f"--algo.dynamic_filtering_range: found {low} {high}, expected the lower first")
        if values["rollout.n_samples_per_prompt"] < 2:
            yield Problem("--algo.dynamic_filtering_enable: needs --rollout.n_samples_per_prompt of at least 2")
    names, weights = values["data.prompt_dataset"].split(","), values["data.prompt_probs"]
    if weights and len(weights.split(",")) != len(names):
        yield Problem(
            f"--data.prompt_probs: found {len(weights.split(','))} values, expected {len(names)}, one a --data.prompt_dataset"
        )
    template = values["data.input_template"]
    if template is not None:
        yield from _input_template(template)
    if values["ds.zpg"] > 1 and (values["ds.zero_stage"] < 3 or ranks(values) % values["ds.zpg"]):
        yield Problem(
            f"--ds.zpg {values['ds.zpg']}: expected a divisor of the policy's {ranks(values)} ranks, and --ds.zero_stage 3"
        )
    yield from _evaluation(values)
    yield from _checkpoints(values)


def _input_template(template: str) -> Iterator[Problem]:
    if "{}" not in template:
        yield Problem(
            f"--data.input_template {template[:40]!r}: has no place {{}} for the question; upstream would drop it"
        )
        return
    try:
        template.format("x")
    except (IndexError, KeyError, ValueError) as error:
        yield Problem(
            f"--data.input_template {template[:40]!r}: str.format fails ({type(error).__name__}: {error}); write braces "
            "that are no place twice, \\boxed{{}}"
        )


def _evaluation(values: Values) -> Iterator[Problem]:
    if values["eval.dataset"] and not (values["reward.remote_url"] or values["train.agent_func_path"]):
        yield Problem("--eval.dataset: needs --reward.remote_url or --train.agent_func_path, which judge the answers")
    if values["eval.dataset"] and values["eval.steps"] == -1:
        yield warning("--eval.dataset: never evaluated; set --eval.steps")
    if values["eval.steps"] != -1 and not values["eval.dataset"]:
        yield warning(f"--eval.steps {values['eval.steps']}: nothing to evaluate; set --eval.dataset")


def _checkpoints(values: Values) -> Iterator[Problem]:
    if values["ckpt.max_num"] < 1:
        yield Problem(f"--ckpt.max_num: found {values['ckpt.max_num']}, expected at least 1")
    if values["ckpt.save_steps"] == -1:
        yield warning("--ckpt.save_steps: not set, so a job that ends early starts afresh")
    elif values["ckpt.disable_ds"]:
        yield warning("--ckpt.disable_ds: a run cannot resume from such checkpoints")
    for flag in ("train.agent_func_path", "reward.remote_url"):
        path = values[flag]
        if path and path.endswith(".py") and not os.path.isfile(path):
            yield Problem(f"--{flag} {path}: no such file; expected a Python file")
