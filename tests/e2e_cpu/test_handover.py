"""After every weight sync real vLLM holds the policy's weights: its log-probs equal the policy's. A lost sync shows."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openrlhf_mel.settings import vllm_build
from openrlhf_mel.train import EXIT_STOPPED
from openrlhf_mel.upstream import AGENT_EXECUTOR

REPO = Path(__file__).resolve().parents[2]
AGENT = Path(__file__).with_name("stale_agent.py")
TOY = f"""
actor: {{model_name_or_path: {REPO}/data/toy/model, adam: {{lr: 1e-3}}, lr_scheduler: constant, lr_warmup_ratio: 0}}
data: {{prompt_dataset: {REPO}/data/toy/train.jsonl, input_key: input, label_key: label, max_len: 384, max_samples: 56}}
rollout: {{batch_size: 8, n_samples_per_prompt: 8, max_new_tokens: 64, micro_batch_size: 32}}
train: {{batch_size: 64, micro_batch_size: 32, agent_func_path: {AGENT}}}
mel: {{template_dir: {REPO}/data/toy/templates, max_new_tokens: 96, cpu_engine: vllm, cpu_dtype: fp32,
       construction: streaming}}
"""
STEPS = 7
HANDED_OVER = 4  # steps whose rollouts used the policy's weights; the engine drops all later weight syncs
NATS = 5e-4  # fp32 rounding in two implementations: the largest seen is 3.0e-4
STALE = 1.0
PACKED = ("--ds.packing_samples", "--ds.attn_implementation=flash_attention_2", "--train.dynamic_batch_enable",
          "--train.max_tokens_per_gpu=2048")  # fmt: skip
LORA = ("--ds.lora.rank=8", "--ds.lora.alpha=128")  # training adapters moves the policy less than training all weights
CASES = list(itertools.product((1, 2, 3), (False, True), (1, 2), (False, True)))
# Pairwise coverage: any two values of two properties occur together at least once.
PAIRWISE = [
    (1, False, 1, False), (1, True, 2, True), (2, False, 2, True), (2, True, 1, False), (3, False, 1, True),
    (3, True, 2, False),
]  # fmt: skip


def case(stage, packed, engines, lora):
    name = f"zero{stage}-{'packed' if packed else 'padded'}-{engines} engines{'-lora' * lora}"
    often = (stage, packed, engines, lora) in PAIRWISE
    return pytest.param(stage, packed, engines, lora, id=name, marks=pytest.mark.slow if often else pytest.mark.release)


def start(tmp_path, *flags):
    if not (vllm_build.installed() and vllm_build.installed().cpu):
        pytest.skip("needs vLLM's CPU build: make setup")
    (tmp_path / "run.yaml").write_text(TOY)
    config = ["--config", tmp_path / "run.yaml", "--mel.run_dir", tmp_path / "out"]
    return subprocess.Popen(
        [sys.executable, "-m", "openrlhf_mel.train", *map(str, config), *flags],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def train(tmp_path, *flags):
    with start(tmp_path, *flags) as running:
        try:
            _, errors = running.communicate(timeout=500)
        finally:
            running.kill()
    assert running.returncode == 0, errors + (tmp_path / "out" / "logs" / "train.log").read_text()[-4000:]
    return [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]


def test_the_cover_is_pairwise():
    for a, b in itertools.combinations(range(4), 2):
        assert {(c[a], c[b]) for c in PAIRWISE} == {(c[a], c[b]) for c in CASES}


@pytest.mark.ray
@pytest.mark.timeout(560)
@pytest.mark.parametrize(("stage", "packed", "engines", "lora"), [case(*c) for c in CASES])
def test_the_engine_is_the_policy_until_hand_overs_are_dropped(tmp_path, stage, packed, engines, lora):
    flags = [f"--ds.zero_stage={stage}", f"--vllm.num_engines={engines}", *PACKED * packed, *LORA * lora]
    metrics = train(tmp_path, *flags)
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    most = [row["rollout/logprob_diff_max"] for row in metrics]
    print(f"{[f'{nats:.1e}' for nats in most]}")
    assert max(most[:HANDED_OVER]) <= NATS, most
    assert most[-1] > STALE, most
    learned = [row["step"] for row in metrics[: HANDED_OVER - 1] if row["mel/kept"]]
    assert len(learned) >= 2, f"Ms were learned only in steps {learned}: the joint loss was hardly tested"


@pytest.fixture
def untied(tmp_path):
    """The toy model with an untied output matrix."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    toy = REPO / "data" / "toy" / "model"
    model = AutoModelForCausalLM.from_pretrained(toy, dtype=torch.float32, tie_word_embeddings=False)
    weight = model.model.embed_tokens.weight.detach()
    generator = torch.Generator().manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(weight + 0.01 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(toy).save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


@pytest.mark.ray
@pytest.mark.release
@pytest.mark.timeout(900)
def test_by_turns_with_a_head_of_its_own_and_after_a_resume(tmp_path, untied):
    """By default vLLM computes with a packed copy of `lm_head`; a resume syncs weights before its first rollout."""
    flags = [
        f"--actor.model_name_or_path={untied}", "--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep",
        "--ds.zero_stage=3", "--ckpt.save_steps=1", "--ckpt.load_enable", "--data.max_samples=32",
        f"--train.agent_func_path={AGENT_EXECUTOR}",
    ]  # fmt: skip
    out = tmp_path / "out"
    with start(tmp_path, *flags) as running:
        deadline = time.monotonic() + 400
        while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
            assert running.poll() is None and time.monotonic() < deadline, running.communicate()
            time.sleep(0.2)
        (out / "stop").touch()
        _, errors = running.communicate(timeout=100)
    assert running.returncode == EXIT_STOPPED, errors
    (out / "stop").unlink(missing_ok=True)
    metrics = train(tmp_path, *flags)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert max(row["rollout/logprob_diff_max"] for row in metrics) <= NATS
