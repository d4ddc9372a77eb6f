"""Run preflight in this process: a configuration that passes, and a local one with its own files."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from openrlhf_mel.preflight.command import main

REPO = Path(__file__).resolve().parents[1]
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


class Runs:
    """Runs the command on a configuration in `folder` and reads its output."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._path, self._capsys = folder / "base.yaml", capsys

    def __call__(self, *flags: object, text: str = BASE, skip: bool = True, node: bool = True) -> tuple[int, dict]:
        """Return the exit code and the report of `--json`."""
        self._path.write_text(text)
        argv = ["--config", str(self._path), "--json", *(NODE if node else []), *(["--skip-files"] if skip else [])]
        code = main([*argv, *map(str, flags)])
        out, err = self._capsys.readouterr()
        report = json.loads(out)
        assert (code == 2) == bool(report["errors"]) == (report["verdict"] == "refused")
        told = [*(f"error: {e}" for e in report["errors"]), *(f"warning: {w}" for w in report["warnings"])]
        # `datasets` shows progress bars if another test has imported it first
        assert [line for line in err.splitlines() if line.startswith(("error: ", "warning: "))] == told
        return code, report


def local_run(folder: Path) -> str:
    """Copy the built-in model and 16 questions to `folder`; return a configuration for GPUs that names them."""
    shutil.copytree(REPO / "data" / "toy" / "model", folder / "model")
    rows = [{"input": f"{n} + 1?", "label": str(n + 1)} for n in range(16)]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = yaml.safe_load((REPO / "data" / "toy" / "mel.yaml").read_text())
    config["actor"] |= {"model_name_or_path": f"{folder}/model", "num_gpus_per_node": 4}
    config["vllm"] = {"num_engines": 4}
    config["data"] |= {"prompt_dataset": f"{folder}/train.jsonl", "max_samples": 100}
    config["rollout"] |= {"batch_size": 8, "micro_batch_size": 4}
    config["train"] |= {"batch_size": 64, "micro_batch_size": 4}
    config["mel"] |= {"runtime": "cuda", "run_dir": f"{folder}/out", "template_dir": str(REPO / "data/toy/templates")}
    config["ckpt"] = {"save_steps": 1}
    return yaml.safe_dump(config)
