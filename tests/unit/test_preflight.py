"""The command: what it refuses, each with its own words and all at once, and what it prints."""

import json
import os
import shutil
import struct
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight import hub, plan, rules
from openrlhf_mel.preflight.command import main
from openrlhf_mel.preflight.shapes import bundled
from openrlhf_mel.upstream.settings import resolve

REPO = Path(__file__).resolve().parents[2]
BASE = """
actor: {model_name_or_path: Qwen/Qwen3-8B-Base, num_nodes: 1, num_gpus_per_node: 8, gradient_checkpointing_enable: true}
vllm: {num_engines: 8, enable_sleep: true, gpu_memory_utilization: 0.7}
ds: {zero_stage: 3, enable_sleep: true, packing_samples: true}
data: {prompt_dataset: train.jsonl, input_key: input, label_key: label, max_len: 12288}
rollout: {batch_size: 128, n_samples_per_prompt: 8, max_new_tokens: 4096}
train: {batch_size: 1024, colocate_all: true, dynamic_batch_enable: true, max_tokens_per_gpu: 16384}
ckpt: {save_steps: 10, max_num: 2}
mel: {runtime: cuda, algorithm: grpo, max_new_tokens: 1024}
"""
NODE = ["--nodes", "1", "--gpus-per-node", "8"]
STATIC = ["--train.dynamic_batch_enable", "false"]  # batches of micro_batch_size
APART = ["--train.colocate_all", "false", "--vllm.enable_sleep", "false", "--ds.enable_sleep", "false"]


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on BASE; returns the exit code, the report of `--json`, and the errors' and warnings' lines."""

    def go(*flags: object, text: str = BASE, skip: bool = True, node: bool = True):
        path = tmp_path / "base.yaml"
        path.write_text(text)
        argv = ["--config", str(path), "--json", *(NODE if node else []), *(["--skip-files"] if skip else [])]
        code = main([*argv, *map(str, flags)])
        out, err = capsys.readouterr()
        report = json.loads(out)
        assert (code == 2) == bool(report["errors"]) == (report["verdict"] == "refused")
        told = [*(f"error: {e}" for e in report["errors"]), *(f"warning: {w}" for w in report["warnings"])]
        # `datasets` draws its progress where another test has imported it first
        assert sorted(line for line in err.splitlines() if line.startswith(("error: ", "warning: "))) == sorted(told)
        return code, report

    return go


def test_a_sound_configuration_passes_without_a_word(run):
    code, report = run()
    assert code == 0 and report["errors"] == report["warnings"] == []


# A flag or two that spoil it, and how it is told: flag, found, expected or what to do.
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
    "host memory": (["--node-memory-gb", 128], "host memory of a node: 229 GiB for offloaded alone, found 128"),
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


def test_memory_is_told_with_what_to_change(run):
    _, report = run(*FAULTS["weights and states beyond the card"][0])
    (message,) = report["errors"]
    assert "the card has 79.2; what to change, the cheapest first" in message
    assert message.index("--vllm.enable_sleep") < message.index("--ds.enable_sleep")
    # what is advised holds: with it the same configuration fits
    code, after = run(*STATIC, "--ds.zero_stage", 1)
    assert code == 0, after["errors"]


def test_another_card_changes_the_verdict(run):
    flags = ["--vllm.gpu_memory_utilization", "0.8", "--ds.zero_stage", "2"]
    assert run(*flags)[0] == 2
    code, report = run(*flags, "--gpu", "h200")
    assert code == 0 and report["card"]["sold_gib"] == 141
    assert run(*flags, "--gpu-memory-gb", "141")[0] == 0
    fast, slow = (run("--gpu", name)[1]["step"]["total_seconds"] for name in ("h200", "h20"))
    assert slow > fast


def test_warnings_do_not_refuse(run):
    code, report = run("--ckpt.save_steps", -1, "--eval.steps", 5, "--data.max_len", 5200)
    assert code == 0
    said = "\n".join(report["warnings"])
    assert "--ckpt.save_steps: not set" in said and "--eval.steps 5: nothing to evaluate" in said
    assert "of the pairs are too long (estimate); raise it" in said


def test_idle_gpus_are_a_warning_with_the_change(run):
    code, report = run("--nodes", 2, "--gpus-per-node", 8, node=False)
    assert code == 0
    (said,) = report["warnings"]
    assert (
        "of which 8 stay idle" in said
        and "--actor.num_nodes 2 --actor.num_gpus_per_node 8 --vllm.num_engines 16" in said
    )


def test_numbers_in_the_report_add_up(run):
    _, report = run()
    (gpu,) = report["gpus"]
    assert gpu["count"] == 8 and gpu["peak_gib"] == max(sum(m.values()) for m in gpu["moments"].values())
    assert report["model"]["parameters"] == bundled()["Qwen/Qwen3-8B-Base"].parameters
    step = report["step"]
    assert step["total_seconds"] == pytest.approx(sum(step["seconds"].values()))
    assert {"mfu", "mixed_share", "questions"} <= set(report["assumptions"])
    assert report["lengths"]["pairs_too_long_share"] == pytest.approx(0, abs=1e-6)


def test_means_can_be_given(run):
    short, long = (run("--mean-response-tokens", n)[1] for n in (500, 3000))
    assert short["step"]["tokens"]["rollout"] < long["step"]["tokens"]["rollout"]
    assert short["lengths"]["truncated_share"] < long["lengths"]["truncated_share"]
    assert run("--mean-question-tokens", 300)[1]["lengths"]["mean_question"] == 300


def test_the_cpu_runtime_is_not_measured_against_a_card(run):
    text = (REPO / "data" / "toy" / "mel.yaml").read_text()
    _, report = run("--mel.runtime", "cpu", text=text, node=False)
    assert report["runtime"] == "cpu" and report["gpus"] == [] and report["errors"] == []


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The built-in model and two questions, as a local GPU run that passes."""
    shutil.copytree(REPO / "data" / "toy" / "model", tmp_path / "model")
    rows = [{"input": f"{n} + 1?", "label": str(n + 1)} for n in range(16)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = yaml.safe_load((REPO / "data" / "toy" / "mel.yaml").read_text())
    config["actor"] |= {"model_name_or_path": f"{tmp_path}/model", "num_gpus_per_node": 4}
    config["vllm"] = {"num_engines": 4}
    config["data"] |= {"prompt_dataset": f"{tmp_path}/train.jsonl", "max_samples": 100}
    config["rollout"] |= {"batch_size": 8, "micro_batch_size": 4}
    config["train"] |= {"batch_size": 64, "micro_batch_size": 4}
    config["mel"] |= {"runtime": "cuda", "run_dir": f"{tmp_path}/out", "template_dir": str(REPO / "data/toy/templates")}
    config["ckpt"] = {"save_steps": 1}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path, yaml.safe_dump(config)


def test_a_sound_local_run_passes(run, world):
    folder, text = world
    code, report = run(text=text, skip=False)
    assert code == 0 and report["errors"] == []
    assert report["rows"] == 16 and report["lengths"]["exact"] and report["step"]["steps"] == 2
    assert report["disk"]["needed_gb"] < 1 and not (folder / "out").exists()


def spoil(kind: str, folder: Path) -> list[str]:
    """Damage the world; returns more flags."""
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
    "evaluation data": "--eval.dataset",
    "too few questions": "1 questions x 8 samples make no optimizer step",
    "run folder": "not empty and not a run of this package",
}


@pytest.mark.parametrize("kind", FILE_FAULTS)
def test_files_at_fault_are_named(run, world, kind):
    folder, text = world
    code, report = run(*spoil(kind, folder), text=text, skip=False)
    assert code == 2 and any(FILE_FAULTS[kind] in e for e in report["errors"]), report["errors"]
    if kind == "columns":
        assert len([e for e in report["errors"] if FILE_FAULTS[kind] in e]) == 2


def test_a_last_rollout_that_does_not_divide_is_told(run, world):
    folder, text = world
    with open(folder / "train.jsonl", "a") as file:
        file.write('{"input": "1 + 5?", "label": "6"}\n')
    code, report = run(text=text, skip=False)
    said = (
        "the last rollout of an episode has 1 of 17 questions, of which 1 do not divide over 4 ranks and are left out"
    )
    assert code == 0 and any(said in w and "--data.max_samples 16 saves" in w for w in report["warnings"])


def test_disk_that_is_too_small(run, world, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    _, report = run(text=world[1], skip=False)
    # 642,432 parameters, ZeRO-2: 14 bytes each are 9.0 MB; 3 + 1 of them and a model of 1.3 MB
    assert report["disk"]["needed_gb"] == pytest.approx((4 * 14 + 2) * 642_432 / 1e9)
    assert (
        len(report["errors"]) == 1
        and "--ckpt.path" in report["errors"][0]
        and "are free, expected" in report["errors"][0]
    )


def test_copies_are_never_rotated(run, world):
    _, report = run("--ckpt.save_hf", "--train.num_episodes", 50, text=world[1], skip=False)
    assert report["disk"]["copies"] == 100
    assert any("--ckpt.save_hf: upstream never removes these copies; 100" in w for w in report["warnings"])


def test_a_hub_that_is_out_of_reach_costs_seconds(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = time.monotonic()
    hub.stay_offline_where_it_is_out_of_reach()
    assert os.environ["HF_HUB_OFFLINE"] == "1" and time.monotonic() - started < 5


def test_schedulers_are_those_that_upstreams_call_can_build():
    import torch
    from transformers import get_scheduler
    from transformers.trainer_utils import SchedulerType

    def builds(name: str) -> bool:
        least = {"min_lr_rate": 0.1} if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr") else {}
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-6)
        try:
            scheduler = get_scheduler(name, optimizer, 3, 100, scheduler_specific_kwargs=least)
            optimizer.step()
            scheduler.step()
        except (TypeError, ValueError):
            return False
        return True

    assert {s.value for s in SchedulerType if builds(s.value)} == set(rules.SCHEDULERS)


def test_a_preset_for_gpus_resolves_on_a_laptop(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    assert resolve(str(path), [], device="cpu").mel.runtime == "cuda"
    assert resolve(str(path), ["--mel.runtime=auto"], device="cuda").mel.runtime == "cuda"
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        resolve(str(path), [])


def test_dry_run_prints_a_gpu_preset_anywhere(tmp_path, command):
    (tmp_path / "base.yaml").write_text(BASE)
    done = command(
        sys.executable, "-m", "openrlhf_mel.train", "--config", tmp_path / "base.yaml", "--dry-run", limit=60
    )
    assert done.returncode == 0, done.stderr
    resolved = json.loads(done.stdout)
    assert resolved["mel.runtime"] == "cuda" and resolved["vllm.sync_backend"] == "nccl"


def test_quick_and_light(world, command):
    """A process of its own: under 10 s, and neither torch nor Ray nor upstream's command line comes in."""
    folder, text = world
    (folder / "run.yaml").write_text(text)
    heavy = "('torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'openrlhf', 'openrlhf.cli', 'flash_attn')"
    code = (
        "import sys; from openrlhf_mel.preflight.command import main; code = main(sys.argv[1:]);"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = command(sys.executable, "-c", code, "--config", folder / "run.yaml", *NODE, limit=10)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]", done.stderr
    assert "verdict: ok" in done.stdout and "8 x policy" not in done.stdout


def test_as_a_module_with_help_and_text(tmp_path, command):
    (tmp_path / "base.yaml").write_text(BASE)
    argv = [sys.executable, "-m", "openrlhf_mel.preflight"]
    done = command(*argv, "--help", limit=10)
    assert done.returncode == 0 and "--skip-files" in done.stdout and "h100" in done.stdout
    done = command(*argv, "--config", tmp_path / "base.yaml", *NODE, "--skip-files", limit=10)
    assert done.returncode == 0 and done.stderr == ""
    for part in ("8 x policy and engine", "vLLM KV cache", "KV cache of an engine", "steps an hour", "verdict: ok"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 200


NUMBERS = (
    "rollout.batch_size", "rollout.n_samples_per_prompt", "rollout.micro_batch_size", "rollout.max_new_tokens",
    "train.batch_size", "train.micro_batch_size", "train.max_tokens_per_gpu", "data.max_len", "data.max_samples",
    "vllm.num_engines", "vllm.tensor_parallel_size", "actor.num_gpus_per_node", "ds.zero_stage", "ds.zpg", "ckpt.max_num",
    "ckpt.save_steps", "ds.ring_attn_size", "ds.lora.rank", "ref.num_nodes", "mel.max_new_tokens", "mel.pairs_per_question",
    "mel.replay_max_new_tokens", "train.max_epochs",
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from([-7, 0, 1, 2, 3, 5, 8, 100, 4096, 10**6])),
    st.dictionaries(
        st.sampled_from(
            ["train.colocate_all", "train.dynamic_batch_enable", "mel.enable", "ckpt.save_hf", "ds.adam_offload"]
        ),
        st.booleans(),
    ),
)
def test_whatever_is_asked_the_answer_is_a_report(run, numbers, switches):
    flags = [f"--{name}={str(value).lower()}" for name, value in (numbers | switches).items()]
    run(*flags)


def test_shipped_cards_are_known():
    assert {"h100", "h200", "h20", "a100"} <= set(plan.cards())
