"""Configurations that preflight refuses, each with its own message, and all faults at once."""

import json
import struct
from pathlib import Path

import pytest
from preflight_runs import APART, STATIC

# Flags that break the configuration, and part of the message: flag, found, expected or what to do.
FAULTS = {
    "batch not divisible by ranks": (
        [*STATIC, "--rollout.batch_size", 127, "--train.batch_size", 1016, "--rollout.micro_batch_size", 16],
        "found 127 x 8 = 1016, expected a multiple of 128 (the policy's ranks (8) x --rollout.micro_batch_size (16)",
    ),
    "batches that ranks cannot share": (
        [*STATIC, "--rollout.batch_size", 9, "--train.batch_size", 72, "--rollout.micro_batch_size", 4],
        "found 9 x 8 = 72, expected a multiple of 32 (the policy's ranks (8) x --rollout.micro_batch_size (4)",
    ),
    "fewer batches than ranks": (
        [*STATIC, "--rollout.micro_batch_size", 512],
        "= 1024, expected a multiple of 4096 (the policy's ranks (8) x --rollout.micro_batch_size (512)",
    ),
    "micro-batch that does not divide": (
        [*STATIC, "--train.micro_batch_size", 3],
        "--train.batch_size 1024: expected a multiple of --train.micro_batch_size x the policy's GPUs (3 x 8)",
    ),
    "dynamic batches and ranks": (
        ["--train.batch_size", 1020],
        "--train.batch_size 1020: expected a multiple of the policy's ranks (8)",
    ),
    "samples left out in silence": (
        ["--train.batch_size", 768],
        "= 1024, expected a multiple of 768 (--train.batch_size: with",
    ),
    "more samples than a rollout has": (["--train.batch_size", 2048], "--train.batch_size 2048: expected at most"),
    "a group of one": (
        ["--rollout.n_samples_per_prompt", 1, "--train.batch_size", 128],
        "--rollout.n_samples_per_prompt 1: grpo compares a group",
    ),
    "over-sampling": (
        ["--rollout.vllm_generate_batch_size", 256],
        "--rollout.vllm_generate_batch_size 256: more than --rollout.batch_size (128) only with",
    ),
    "engines that do not cover the policy's GPUs": (
        ["--vllm.num_engines", 4],
        "--train.colocate_all: policy and engines share every GPU; found 8 GPUs of the policy",
    ),
    "more GPUs than allocated": (
        [*APART, "--vllm.num_engines", 4],
        "the allocation has 8 GPUs (1 x 8), expected 12: 8 for the policy, 4 for engines",
    ),
    "reference model elsewhere": (
        ["--algo.kl.init_coef", 0.01, "--ref.num_gpus_per_node", 4],
        "--ref.num_gpus_per_node 4: expected 8, as --actor.num_gpus_per_node",
    ),
    "tensor parallelism and heads": (
        ["--vllm.num_engines", 1, "--vllm.tensor_parallel_size", 5],
        "--vllm.tensor_parallel_size 5: does not divide the model's 32 attention heads",
    ),
    "more positions than the model has": (
        ["--data.max_len", 65536],
        "--data.max_len 65536: the model has 32768 positions",
    ),
    "no room for a question": (
        ["--rollout.max_new_tokens", 12270],
        "--data.max_len 12288: --rollout.max_new_tokens 12270 and the question's template",
    ),
    "no room for a pair": (
        ["--data.max_len", 4600, "--mel.max_new_tokens", 3800],
        "leave 223 tokens for two responses",
    ),
    "no room for a replay": (
        ["--mel.replay_max_new_tokens", 12100],
        "--mel.replay_max_new_tokens 12100: with the replay's prompt (222 tokens without M)",
    ),
    "weights and states beyond the card": (
        [*STATIC, "--ds.zero_stage", 1, "--ds.enable_sleep", "false", "--vllm.enable_sleep", "false"],
        "memory of a GPU (policy and engine): ",
    ),
    "a share too small for the weights": (
        ["--vllm.gpu_memory_utilization", 0.2],
        "--vllm.gpu_memory_utilization 0.2: beside its weights an engine has room for 0 tokens",
    ),
    "a share that is none": (
        ["--vllm.gpu_memory_utilization", 1.2],
        "--vllm.gpu_memory_utilization: found 1.2, expected",
    ),
    "host memory": (["--node-memory-gb", 128], "host memory of a node: 279 GiB for offloaded alone, found 128"),
    "scheduler": (["--actor.lr_scheduler", "cosine_with_min_rl"], "--actor.lr_scheduler: found 'cosine_with_min_rl'"),
    "warm-up": (["--actor.lr_warmup_ratio", 3], "--actor.lr_warmup_ratio: found 3.0, expected 0 to 1"),
    "temperature": (["--rollout.temperature", 0], "--rollout.temperature: found 0.0, expected more than 0"),
    "nucleus": (["--rollout.top_p", 0], "--rollout.top_p: found 0.0"),
    "filtering range": (
        ["--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", 1, 0],
        "--algo.dynamic_filtering_range: found 1.0 0.0, expected the lower first",
    ),
    "threshold": (
        ["--algo.advantage.is_correction_threshold", 1, 2, 3],
        "--algo.advantage.is_correction_threshold: found 3 values",
    ),
    "template without a place": (
        ["--data.input_template", "Solve it."],
        "--data.input_template 'Solve it.': has no place",
    ),
    "template with LaTeX": (
        ["--data.input_template", r"{} Put it in \boxed{x}."],
        "str.format fails (KeyError: 'x'); write braces that are no place twice",
    ),
    "template folder": (["--mel.template_dir", "/nowhere"], "--mel.template_dir /nowhere: no such folder"),
    "weights of a mixture": (["--data.prompt_probs", "0.5,0.5"], "--data.prompt_probs: found 2 values, expected 1"),
    "ZeRO++ groups": (["--ds.zpg", 3], "--ds.zpg 3: expected a divisor of the policy's 8 ranks"),
    "checkpoints": (["--ckpt.max_num", 0], "--ckpt.max_num: found 0, expected at least 1"),
    "partial rollouts": (
        ["--train.partial_rollout_enable"],
        "--train.partial_rollout_enable: only for --train.async_enable",
    ),
    "asynchronous": (["--train.async_enable"], "--vllm.enable_sleep: not possible with --train.async_enable"),
    "reward file": (
        ["--reward.remote_url", "/nowhere/reward.py"],
        "--reward.remote_url /nowhere/reward.py: no such file",
    ),
    "misspelt key": (
        ["--rollout.batch_sise", 1],
        "unknown flag --rollout.batch_sise; did you mean rollout.batch_size?",
    ),
    "half an allocation": (["--gpu", "gtx"], "--gpu: invalid choice: 'gtx'"),
    "no number": (["--node-memory-gb", "much"], "--node-memory-gb: invalid number value: 'much'"),
    "nothing at all": (["--gpu-memory-gb", 0], "--gpu-memory-gb: found 0, expected more than 0"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused_each_in_its_own_words(run, name):
    flags, said = FAULTS[name]
    code, report = run(*flags)
    assert code == 2
    hits = [e for e in report["errors"] if said in e]
    assert len(hits) == 1, report["errors"]


def test_every_fault_has_words_of_its_own():
    assert len({said for _, said in FAULTS.values()}) == len(FAULTS) >= 15


def test_all_faults_are_told_at_once(run):
    names = [
        "warm-up",
        "temperature",
        "checkpoints",
        "weights of a mixture",
        "template folder",
        "more samples than a rollout has",
    ]
    code, report = run(*(flag for name in names for flag in FAULTS[name][0]))
    assert code == 2
    for name in names:
        assert any(FAULTS[name][1] in e for e in report["errors"]), name


def test_several_misspelt_and_missing_keys_are_told_at_once(run):
    text = "actor: {modell_name: x}\ndata: {prompt_datasets: y}\nmel: {replayz: 1}\n"
    _, report = run("--rollout.batch_sise", 1, text=text)
    assert [e.split(";")[0].split(": ", 1)[-1] for e in report["errors"]] == [
        "unknown key 'actor.modell_name'",
        "unknown key 'data.prompt_datasets'",
        "unknown key 'mel.replayz'",
        "unknown flag --rollout.batch_sise",
    ]
    _, report = run(text="mel: {replays: 0, temperature: -1}\ntrain: {batch_size: many}\n")
    said = "\n".join(report["errors"])
    assert "--mel.replays: found 0" in said and "--mel.temperature: found -1" in said
    assert "--train.batch_size: invalid int value: 'many'" in said and "--data.prompt_dataset" in said


def spoil(kind: str, folder: Path) -> list[str]:
    """Damage the world; return additional flags."""
    weights = folder / "model" / "model.safetensors"
    match kind:
        case "no model":
            return [f"--actor.model_name_or_path={folder}/none"]
        case "no weights":
            weights.unlink()
        case "broken download":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "pointer":
            weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case "no header":
            weights.write_bytes(struct.pack("<Q", 2**40) + b"{}")
        case "missing shard":
            index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model.safetensors"}}
            (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
        case "no tokenizer":
            (folder / "model" / "tokenizer.json").unlink()
        case "no chat template":
            (folder / "model" / "chat_template.jinja").unlink()
            return ["--data.apply_chat_template"]
        case "code of its own":
            path = folder / "model" / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}))
        case "no data":
            return [f"--data.prompt_dataset={folder}/none.jsonl"]
        case "columns":
            return ["--data.input_key=question", "--data.label_key=answer"]
        case "split":
            return ["--data.prompt_split", "nosuch"]
        case "evaluation split":
            return [f"--eval.dataset={folder}/train.jsonl", "--eval.steps=1", "--eval.split=nosuch"]
        case "evaluation data":
            return [f"--eval.dataset={folder}/none.jsonl", "--eval.steps=1"]
        case "too few questions":
            (folder / "train.jsonl").write_text('{"input": "1 + 5?", "label": "6"}\n')
        case "run folder":
            (folder / "out").mkdir()
            (folder / "out" / "thesis.tex").write_text("mine")
    return []


FILE_FAULTS = {
    "no model": "/none: no such folder",
    "no weights": "/model: holds no weights",
    "broken download": "bytes, expected",
    "pointer": "a Git LFS pointer, not the weights",
    "no header": "no safetensors header",
    "missing shard": "1 of 2 files of weights are missing, the first is model-1-of-2.safetensors",
    "no tokenizer": "/model: holds no tokenizer",
    "no chat template": "has no chat template, as base models often",
    "code of its own": "its config.json names Python code of its own (auto_map)",
    "no data": "--data.prompt_dataset",
    "columns": "has no such column; found input, label",
    "split": "/train.jsonl, which has train",
    "evaluation split": "--eval.split: found 'nosuch', expected a split of ",
    "evaluation data": "--eval.dataset",
    "too few questions": "1 questions x 8 samples make no optimizer step",
    "run folder": "not empty and not a run of this package",
}


@pytest.mark.parametrize("kind", FILE_FAULTS)
def test_files_at_fault_are_named(run, world, kind):
    folder, text = world
    code, report = run(*spoil(kind, folder), text=text, skip=False)
    assert code == 2 and any(FILE_FAULTS[kind] in e for e in report["errors"]), report["errors"]
    if kind == "split":
        assert any(e.startswith("--data.prompt_split: found 'nosuch', expected a split of ") for e in report["errors"])
    if kind == "columns":
        assert len([e for e in report["errors"] if FILE_FAULTS[kind] in e]) == 2
