"""The rollout-training mismatch in whole runs: its metrics, and the warning when a weight sync loses one tensor."""

import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.release, pytest.mark.timeout(600)]
REPO = Path(__file__).resolve().parents[2]
# A high learning rate, so that weights that were not synced show.
RUN = f"""
actor: {{model_name_or_path: {REPO}/data/toy/model, adam: {{lr: 1e-3}}, lr_scheduler: constant}}
data: {{prompt_dataset: {REPO}/data/toy/train.jsonl, input_key: input, label_key: label, max_len: 384, max_samples: 24}}
rollout: {{batch_size: 8, n_samples_per_prompt: 8, max_new_tokens: 64, micro_batch_size: 8}}
train: {{batch_size: 64, micro_batch_size: 8}}
mel: {{template_dir: {REPO}/data/toy/templates, max_new_tokens: 96, cpu_engine: transformers, cpu_dtype: fp32}}
"""


@pytest.fixture
def run(tmp_path, command):
    """Run the training; return the rows of `metrics.jsonl`, the guard's warnings, and the console output."""

    def run(lost, *flags):
        (tmp_path / "run.yaml").write_text(RUN)
        argv = [sys.executable, Path(__file__).with_name("forgetful.py"), lost, "--config", tmp_path / "run.yaml"]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
        done = command(*argv, "--mel.run_dir", tmp_path / "out", *flags, limit=500, env=env)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2, 3]
        return (
            rows,
            [line for line in done.stdout.splitlines() if "does not sample from the policy" in line],
            done.stdout,
        )

    return run


def test_engine_and_policy_are_one_as_long_as_every_tensor_is_handed_over(run):
    rows, told, _ = run("none")
    assert all(0 < row["rollout/logprob_diff_mean"] <= row["rollout/logprob_diff_max"] <= 5e-4 for row in rows)
    assert all(0 < row["rollout/kl_k3"] < 1e-7 for row in rows) and not told


def test_one_tensor_that_is_lost_is_told_of(run):
    rows, told, _ = run("model.layers.2.self_attn.q_proj.weight")
    assert rows[0]["rollout/logprob_diff_max"] <= 5e-4  # before the first weight sync
    [warning] = told
    assert warning.startswith("warning: step 2: ") and "weights are lost on the way to the engine" in warning


def test_below_top_p_1_it_is_left_out_and_said_once(run):
    rows, told, console = run("none", "--rollout.top_p=0.9")
    assert not any("logprob" in key and "rollout" in key for row in rows for key in row) and not told
    assert console.count("log-probs are not compared with the policy's: with --rollout.top_p 0.9") == 1
