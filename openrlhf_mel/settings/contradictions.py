"""Settings that exclude each other. What would fail late, or do something other than requested, is refused at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from openrlhf_mel.settings import batches
from openrlhf_mel.settings.mel_options import MELConfig
from openrlhf_mel.settings.paradigms import PARADIGMS
from openrlhf_mel.settings.placement import placement

# The least valid value; below it upstream fails late, in a worker.
LEAST = {
    "data.max_len": 2,
    "data.max_samples": 1,
    "rollout.batch_size": 1,
    "rollout.n_samples_per_prompt": 1,
    "rollout.max_new_tokens": 1,
    "rollout.micro_batch_size": 1,
    "train.batch_size": 1,
    "train.micro_batch_size": 1,
    "train.max_epochs": 1,
    "train.num_episodes": 1,
    "train.max_tokens_per_gpu": 1,
    "actor.num_nodes": 1,
    "actor.num_gpus_per_node": 1,
    "vllm.num_engines": 1,
    "vllm.tensor_parallel_size": 1,
    "train.async_queue_size": 1,
    "ds.ring_attn_size": 1,
    "ds.tensor_parallel_size": 1,
    "logger.logging_steps": 1,
}


def find_contradictions(mel: MELConfig, values: dict[str, Any]) -> Iterator[str]:
    """One message for each broken rule, those of the paradigm aside (`objections.py`).

    Args:
        values: every upstream flag with its value, by dotted name.
    """
    if values["logger.wandb.key"] not in (None, "env"):
        yield (
            "--logger.wandb.key: a key on the command line or in a file can be read by others; "
            "export WANDB_API_KEY and set logger.wandb.key to `env`"
        )
    if values["logger.wandb.key"] == "env" and not os.environ.get("WANDB_API_KEY"):
        yield "--logger.wandb.key env: WANDB_API_KEY is not set; export it"
    if mel.runtime == "cuda" and mel.cpu_dtype != "fp32":
        yield f"--mel.cpu_dtype {mel.cpu_dtype}: only for --mel.runtime cpu"
    low = {n: least for n, least in LEAST.items() if values[n] is not None and values[n] < least}
    for name, least in low.items():
        yield f"--{name}: found {values[name]}, expected at least {least}"
    for name in ("ckpt.save_steps", "eval.steps"):
        if values[name] == 0 or values[name] < -1:
            yield f"--{name}: found {values[name]}, expected at least 1, or -1 for never"
    if low:
        return  # the rest computes with them
    yield from _sizes(mel, values)
    yield from _combinations(mel, values)
    yield from _sharing(values)
    yield from _correction(values)
    yield from _deferral(mel, values)
    yield from _unsupported(mel, values)


def _sizes(mel: MELConfig, values: dict[str, Any]) -> Iterator[str]:
    """Batches, groups and lengths that do not fit each other."""
    group, prompts = values["rollout.n_samples_per_prompt"], values["rollout.batch_size"]
    samples = group * prompts
    if values["train.batch_size"] > samples:
        yield (
            f"--train.batch_size {values['train.batch_size']}: expected at most --rollout.batch_size x "
            f"--rollout.n_samples_per_prompt ({prompts} x {group} = {samples}); OpenRLHF counts samples here"
        )
    gpus = values["actor.num_nodes"] * values["actor.num_gpus_per_node"]
    window = values["train.micro_batch_size"] * gpus
    window //= math.gcd(window, values["ds.ring_attn_size"] * values["ds.tensor_parallel_size"])
    if not values["train.dynamic_batch_enable"] and values["train.batch_size"] % window:
        yield (
            f"--train.batch_size {values['train.batch_size']}: expected a multiple of --train.micro_batch_size x "
            f"the policy's GPUs ({values['train.micro_batch_size']} x {gpus})"
        )
    ranks = batches.ranks(values)
    dynamic = values["train.batch_size"] if values["train.dynamic_batch_enable"] else None
    unit = batches.samples_unit(ranks, values["rollout.micro_batch_size"], values["train.micro_batch_size"], dynamic)
    if samples % unit:
        reason = (
            "--train.batch_size: with --train.dynamic_batch_enable upstream trains whole optimizer steps alone"
            if dynamic
            else f"the policy's ranks ({ranks}) x --rollout.micro_batch_size ({values['rollout.micro_batch_size']}) and x "
            f"--train.micro_batch_size ({values['train.micro_batch_size']}): else ranks get unequal shares"
        )
        yield (
            f"--rollout.batch_size x --rollout.n_samples_per_prompt: found {prompts} x {group} = {samples}, expected a "
            f"multiple of {unit} ({reason})"
        )
    if dynamic and dynamic % ranks:
        yield (
            f"--train.batch_size {dynamic}: expected a multiple of the policy's ranks ({ranks}); with dynamic batches the "
            "rest would be left out silently"
        )
    if (values["rollout.max_new_tokens"] or 0) >= values["data.max_len"]:
        yield (
            f"--rollout.max_new_tokens {values['rollout.max_new_tokens']}: expected less than --data.max_len "
            f"({values['data.max_len']}), which holds the prompt as well"
        )


def _combinations(mel: MELConfig, values: dict[str, Any]) -> Iterator[str]:
    """Switches that fail in a worker, run code, lose work or save wrong weights, alone or together."""
    for name in ("data.prompt_dataset", "eval.dataset"):
        scripts = [part for part in (values[name] or "").split(",") if part.split("@")[0].strip().endswith(".py")]
        if scripts and not mel.trust_remote_code:
            yield f"--{name} {scripts[0]}: a Python script would be run; --mel.trust_remote_code allows it"
    if values["ds.zero_stage"] not in (1, 2, 3):
        yield f"--ds.zero_stage {values['ds.zero_stage']}: expected 1, 2 or 3"
    if values["ckpt.disable_ds"] and values["ckpt.load_enable"]:
        yield "--ckpt.load_enable: --ckpt.disable_ds saves no checkpoint that can be resumed; leave one of them out"
    if values["actor.optim"] == "muon" and values["ds.zero_stage"] == 3:
        yield "--actor.optim muon: DeepSpeed refuses it with --ds.zero_stage 3 as OpenRLHF sets that up; expected 1 or 2"
    if values["ds.lora.rank"] and values["ds.load_in_4bit"]:
        yield "--ds.load_in_4bit: not supported with --ds.lora.rank (the engine gets merged weights, and 4-bit ones are packed)"
    if values["ds.lora.rank"] and values["train.enable_ema"]:
        yield "--train.enable_ema: not supported with --ds.lora.rank (OpenRLHF's average has no adapters)"
    if values["ds.zero_stage"] == 1 and values["ds.grad_accum_dtype"] == "fp32":
        yield (
            "--ds.grad_accum_dtype fp32: not with --ds.zero_stage 1, for which DeepSpeed then takes an optimizer that keeps "
            "gradients elsewhere; use --ds.zero_stage 2"
        )


def _sharing(values: dict[str, Any]) -> Iterator[str]:
    """How policy and engines share GPUs. Upstream asserts this after Ray has started, or corrects it silently."""
    asynchronous = values["train.async_enable"]
    if values["vllm.enable_sleep"] and asynchronous:
        yield (
            "--vllm.enable_sleep: not possible with --train.async_enable, whose engines generate while the policy "
            "trains; leave one of them out"
        )
    elif values["vllm.enable_sleep"] and not values["train.colocate_all"]:
        yield (
            "--vllm.enable_sleep: only for --train.colocate_all, where engines and policy take turns on the same GPUs"
        )
    if values["train.partial_rollout_enable"] and not asynchronous:
        yield "--train.partial_rollout_enable: only for --train.async_enable"
    per_call, prompts = values["rollout.vllm_generate_batch_size"], values["rollout.batch_size"]
    if per_call is not None and per_call < prompts:
        yield (
            f"--rollout.vllm_generate_batch_size {per_call}: expected at least --rollout.batch_size ({prompts}), which "
            "is what a step trains on"
        )
    if per_call is not None and per_call > prompts and not asynchronous:
        yield (
            f"--rollout.vllm_generate_batch_size {per_call}: more than --rollout.batch_size ({prompts}) only with "
            "--train.async_enable, whose queue holds the rest"
        )
    if per_call is not None and per_call > prompts and (values["ckpt.save_steps"] > 0 or values["ckpt.load_enable"]):
        yield (
            f"--rollout.vllm_generate_batch_size {per_call}: more than --rollout.batch_size ({prompts}) does not go with "
            "checkpoints: what waits in OpenRLHF's buffer is in none of them, so a resume would leave these questions out"
        )
    gpus = placement(values)
    engines = values["vllm.num_engines"] * values["vllm.tensor_parallel_size"]
    if gpus.shared and gpus.actors != engines:
        yield (
            f"--train.colocate_all: policy and engines share every GPU; found {gpus.actors} GPUs of the policy "
            f"(--actor.num_nodes x --actor.num_gpus_per_node) and --vllm.num_engines x --vllm.tensor_parallel_size = "
            f"{values['vllm.num_engines']} x {values['vllm.tensor_parallel_size']} = {engines} of the engines, expected as many"
        )


def _correction(values: dict[str, Any]) -> Iterator[str]:
    """Upstream's rollout correction. Upstream refuses wrong values only in a worker."""
    level, mode, gating, threshold = (
        values[f"algo.advantage.is_correction_{part}"] for part in ("level", "mode", "gating", "threshold")
    )
    if level == "off":
        return
    flag = f"--algo.advantage.is_correction_level {level}"
    if values["rollout.top_p"] < 1:
        yield (
            f"{flag}: biased with --rollout.top_p {values['rollout.top_p']:g}: the engine's log-probs are over the tokens "
            "that top-p leaves, the policy's over all; expected --rollout.top_p 1, or leave the correction off"
        )
    if mode == "clip" and (level, gating) != ("token", "ratio"):
        yield (
            f"--algo.advantage.is_correction_mode clip: found {flag} and --algo.advantage.is_correction_gating {gating}, "
            "expected token and ratio: a token's ratio alone can be clipped; use mask"
        )
    if gating != "ratio" and len(threshold) == 2 and threshold[0] > 0:
        yield (
            f"--algo.advantage.is_correction_threshold {threshold[0]:g} {threshold[1]:g}: a divergence "
            f"(--algo.advantage.is_correction_gating {gating}) is bounded from above only; expected one value"
        )


def undeferrable(values: dict[str, Any]) -> list[str]:
    """Why constructions cannot be deferred: what leaves nothing to gain, or may leave no step to learn their Ms in."""
    found = []
    if values["train.async_enable"]:
        found.append("not with --train.async_enable, whose rollouts overlap the training already")
    if values["algo.dynamic_filtering_enable"]:
        found.append(
            "not with --algo.dynamic_filtering_enable: the run's last questions may all be filtered out, and no step "
            "would be left for the Ms before them"
        )
    return found


def _deferral(mel: MELConfig, values: dict[str, Any]) -> Iterator[str]:
    if mel.enable and mel.construction == "deferred":
        for reason in undeferrable(values):
            yield f"--mel.construction deferred: {reason}; use --mel.construction streaming"


def _unsupported(mel: MELConfig, values: dict[str, Any]) -> Iterator[str]:
    """What the joint objective or the CPU runtime does not support."""
    if mel.enable or PARADIGMS[mel.algorithm].correct_only:
        for flag, reason in {
            "data.max_images_per_prompt": "meta-experiences are text",
            "ds.deepcompile": "DeepSpeed's compiled backward keeps gradients of its own",
            "reward.model_name_or_path": "a reward model scores after sampling; use --reward.remote_url",
        }.items():
            if values[flag]:
                yield f"--{flag}: not supported with meta-experiences or rft ({reason})"
        for flag in ("ds.ring_attn_size", "ds.tensor_parallel_size"):
            if values[flag] > 1:
                yield (
                    f"--{flag} {values[flag]}: not supported with meta-experiences or rft: a sequence, or its logits, is "
                    "then cut over ranks, and M's tokens may lie on any of them; expected 1 (long contexts: "
                    "--ds.zero_stage 3, --actor.gradient_checkpointing_enable)"
                )
    if mel.runtime == "cpu":
        for flag in (
            "ds.adam_offload",
            "ds.load_in_4bit",
            "ds.use_liger_kernel",
            "ds.deepcompile",
            "train.enable_ema",
            "algo.kl.init_coef",
            "reward.model_name_or_path",
            "vllm.sync_with_ray",
        ):
            if values[flag]:
                yield f"--{flag}: needs a GPU; not available with --mel.runtime cpu"
        if values["vllm.sync_backend"] != "gloo":
            yield f"--vllm.sync_backend {values['vllm.sync_backend']}: needs a GPU; expected gloo with --mel.runtime cpu"
        if values["vllm.tensor_parallel_size"] > 1:
            yield (
                f"--vllm.tensor_parallel_size {values['vllm.tensor_parallel_size']}: needs GPUs; expected 1 with "
                "--mel.runtime cpu (more engines: --vllm.num_engines)"
            )
