"""Whole runs: the entry, Ray, upstream's trainer, DeepSpeed, the tiny model's rollouts, meta-experiences, the log."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
REPO = Path(__file__).resolve().parents[2]
MODEL = REPO / "data" / "toy" / "model"
TOY = f"""
actor: {{model_name_or_path: {MODEL}, adam: {{lr: 1e-4}}, lr_warmup_ratio: 0}}
data: {{prompt_dataset: {REPO}/data/toy/train.jsonl, input_key: input, label_key: label, max_len: 384, max_samples: 16}}
rollout: {{batch_size: 8, n_samples_per_prompt: 8, max_new_tokens: 64, micro_batch_size: 8}}
train: {{batch_size: 64, micro_batch_size: 8}}
mel: {{template_dir: {REPO}/data/toy/templates, max_new_tokens: 96, cpu_engine: transformers,
       construction: streaming}}
"""
MINIMAL = """
actor: {{model_name_or_path: {model}}}
data: {{prompt_dataset: {data}, input_key: {input}, label_key: {label}, max_len: 2048, max_samples: 8}}
rollout: {{batch_size: 4, n_samples_per_prompt: 2, max_new_tokens: 32}}
train: {{batch_size: 8}}
"""


@pytest.fixture
def train(tmp_path, command):
    def run(text, *flags):
        (tmp_path / "run.yaml").write_text(text)
        out = tmp_path / "out"
        argv = [sys.executable, "-m", "openrlhf_mel.train", "--config", tmp_path / "run.yaml", "--mel.run_dir", out]
        done = command(*argv, *flags, limit=500, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        log = out / "logs" / "train.log"
        assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
        return out, done

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


PACKED = ("--ds.packing_samples", "--ds.attn_implementation=flash_attention_2", "--train.dynamic_batch_enable",
          "--train.max_tokens_per_gpu=512", "--ds.zero_stage=3")  # fmt: skip


@pytest.mark.parametrize("flags", [pytest.param((), marks=pytest.mark.release), PACKED], ids=["padded", "packed"])
def test_two_processes_learn_from_meta_experiences(train, flags):
    out, done = train(TOY, "--actor.num_gpus_per_node=2", *flags)
    metrics, archive = lines(out / "metrics.jsonl"), lines(out / "meta_experiences.jsonl")
    assert [m["step"] for m in metrics] == [1, 2]
    for m in metrics:
        candidates = [e for e in archive if e["step"] == m["step"]]
        kept = [e for e in candidates if e["kept"]]
        assert len(candidates) == m["mel/candidates"] > 0 and len(kept) == m["mel/kept"] > 0
        assert m["mel/retention_ratio"] == pytest.approx(len(kept) / len(candidates))
        assert m["loss/nll"] > 0 and m["grad_norm/nll"] > 0 and m["grad_norm/policy"] > 0
        dropped = {k.rsplit("/")[-1]: v for k, v in m.items() if k.startswith("mel/dropped/") and v}
        assert sum(dropped.values()) == len(candidates) - len(kept)
        for e in candidates:
            assert (e["reason"] is None) == e["kept"] and e["y_pos"] != e["y_neg"]
            assert not e["kept"] or set(e["sections"]) == {"bifurcation_point", "critique", "heuristic"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["finished"] and manifest["versions"]["openrlhf"] == "0.11.2"
    assert manifest["config"]["actor.num_gpus_per_node"] == 2 and manifest["templates_sha256"]["question.txt"]
    assert all(manifest["data_sha256"]["data.prompt_dataset"].values())
    assert not (out / "model.partial").exists() and any((out / "tensorboard").rglob("events*"))
    assert "step 2" in done.stdout and len(done.stdout.splitlines()) < 20
    changed(out)


def changed(out):
    """Check that the final model loads and differs from the initial one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (MODEL, out / "model"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.decode(tokenizer("1+1=2")["input_ids"]) == "1+1=2"


@pytest.mark.slow
def test_evaluation_leaves_no_trace_in_training(train, tmp_path):
    """With rft, evaluated after each step; the evaluation's questions never reach the archive or the actor."""
    rows = lines(REPO / "data" / "toy" / "test.jsonl")[:4]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    flags = ["--eval.dataset", tmp_path / "eval.jsonl", "--eval.steps=1", "--mel.algorithm=rft",
             "--eval.n_samples_per_prompt=8", "--eval.temperature=1.0"]  # fmt: skip
    out, _ = train(TOY, *flags)
    assert (out / "logs" / "train.log").read_text().count("Evaluation completed") == 2
    asked = {e["question"] for e in lines(out / "meta_experiences.jsonl")}
    trained = {r["input"] for r in lines(REPO / "data" / "toy" / "train.jsonl")}
    assert asked and asked <= trained and not asked & {r["input"] for r in rows}
    for m in lines(out / "metrics.jsonl"):
        assert m["mel/candidates"] <= 8 and m["rollout/num_samples"] == 64


@pytest.mark.release
@pytest.mark.parametrize("enable", ["true", "false"], ids=["MEL", "baseline"])
@pytest.mark.parametrize("algorithm", ["gspo", "dr_grpo", "rloo"])
def test_a_paradigm_learns(train, algorithm, enable):
    out, _ = train(TOY, f"--mel.algorithm={algorithm}", f"--mel.enable={enable}")
    metrics = lines(out / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2]
    assert all(m["grad_norm/policy"] > 0 and math.isfinite(m["loss/policy"]) for m in metrics)
    assert ("loss/nll" in metrics[0]) == (enable == "true")
    objective = json.loads((out / "manifest.json").read_text())["objective"]
    assert objective["clip"] == ([3e-4, 4e-4] if algorithm == "gspo" else [0.2, 0.2])
    assert objective["estimator"] == ("group_norm" if algorithm == "gspo" else algorithm)
    changed(out)


TURNS = ("--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep", "--ds.zero_stage=3", "--ds.lora.rank=4",
         "--actor.num_gpus_per_node=2", "--vllm.num_engines=2")  # fmt: skip
ASYNC = ("--train.async_enable", "--eval.steps=1", "--eval.n_samples_per_prompt=2",
         "--ckpt.best_metric_key=eval_default_pass1", "--mel.nll_schedule=linear", "--mel.nll_end_coef=0.5")  # fmt: skip
PARTIAL = ("--train.async_enable", "--train.partial_rollout_enable", "--rollout.vllm_generate_batch_size=16",
           "--train.async_queue_size=2", "--actor.num_gpus_per_node=2")  # fmt: skip


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(TURNS, id="engines and policy take turns, LoRA", marks=pytest.mark.release),
        pytest.param(ASYNC, id="asynchronous", marks=pytest.mark.release),
        pytest.param(PARTIAL, id="asynchronous, partial rollouts", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.release)])
def test_engines_and_policy_share_time(train, tmp_path, flags, engine):
    """Ms kept in a step are learned in that step, in every schedule of rollouts; evaluation leaves no trace."""
    rows = lines(REPO / "data" / "toy" / "test.jsonl")[:4]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps({**r, "datasource": "default"}) + "\n" for r in rows))
    evaluation = ("--eval.dataset", tmp_path / "eval.jsonl") if "--eval.steps=1" in flags else ()
    out, _ = train(TOY, *flags, *evaluation, f"--mel.cpu_engine={engine}")
    metrics, archive = lines(out / "metrics.jsonl"), lines(out / "meta_experiences.jsonl")
    assert [m["step"] for m in metrics] == [1, 2]
    for m in metrics:
        kept = [e for e in archive if e["step"] == m["step"] and e["kept"]]
        assert len(kept) == m["mel/kept"] == m["mel/learned"] > 0
        assert m["loss/nll"] > 0 and m["grad_norm/nll"] > 0 and m["policy/entropy"] > 0
        assert m["rollout/groups_left_out"] == 0
    assert sum(m["timing/mel_construction"] for m in metrics) > 0
    if evaluation:
        assert [e["step"] for e in lines(out / "evaluations.jsonl")] == [1]
        assert [m["mel/nll_coef"] for m in metrics] == [1.0, 0.5]
        (best,) = (out / "checkpoints" / "_actor").glob("best*")
        (state,) = best.glob("*_model_states.pt")
        assert best.name == "best_global_step1" and steps_learned(state) == 1  # the weights that were evaluated
        assert not {e["question"] for e in archive} & {r["input"] for r in rows}


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--mel.cpu_engine=transformers",), id="transformers", marks=pytest.mark.slow),
        pytest.param(("--mel.cpu_engine=vllm",), id="vllm", marks=pytest.mark.slow),
        pytest.param(
            (*TURNS, "--mel.cpu_engine=vllm"), id="vllm, engines and policy take turns", marks=pytest.mark.release
        ),
    ],
)
def test_deferred_constructions_are_learned_in_the_step_in_which_they_end(train, flags):
    out, _ = train(TOY, "--mel.construction=deferred", "--data.max_samples=32", *flags)
    metrics, archive = lines(out / "metrics.jsonl"), lines(out / "meta_experiences.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    assert all(0 <= e["step"] - e["drawn_step"] <= 1 for e in archive)
    assert len({(e["drawn_step"], e["question"]) for e in archive}) == len(archive)  # one pair of a question, once
    assert not any(e["reason"] == "generation_error" for e in archive)
    for m in metrics:
        ended = [e for e in archive if e["step"] == m["step"]]
        assert len(ended) == m["mel/candidates"] and m["mel/kept"] == m["mel/learned"] == sum(e["kept"] for e in ended)
        over = [e for e in archive if e["drawn_step"] <= m["step"] < e["step"]]
        assert m["mel/carried_over"] == len(over)
        assert len([e for e in archive if e["drawn_step"] == m["step"]]) == m["mel/groups_mixed"]
        assert m["rollout/logprob_diff_max"] < 1e-3  # engine and policy have the same weights
        assert 0 <= m["timing/generation_idle"] < 1 and m["mel/overhead"] >= 0
    assert metrics[-1]["mel/carried_over"] == 0 < sum(m["mel/carried_over"] for m in metrics)
    changed(out)


def steps_learned(state):
    """Return the optimizer steps of a checkpoint's weights, as counted by its engine."""
    import torch

    return torch.load(state, map_location="cpu", weights_only=False)["global_steps"]


@pytest.mark.release
def test_the_last_rollout_may_be_smaller_and_uneven(train):
    """13 questions, 8 per step: of the last 40 samples 2 ranks share 32, whole micro-batches; the rest is reported."""
    out, done = train(TOY.replace("max_samples: 16", "max_samples: 13"), "--actor.num_gpus_per_node=2")
    first, last = lines(out / "metrics.jsonl")
    assert first["rollout/groups_left_out"] == 0 and last["rollout/groups_left_out"] == 1
    assert last["loss/policy"] is not None and "1 of 5 questions were left out" in done.stdout


@pytest.mark.release
def test_minimal_configuration_on_dapo_math(train, tmp_path, shared):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(shared / "data" / "train" / "dapo_math_17k_svs.parquet")
    rows = [
        {"input": row["prompt"][0]["content"], "label": row["reward_model"]["ground_truth"]}
        for row in table.slice(0, 64).to_pylist()
    ]
    (tmp_path / "dapo.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out, _ = train(MINIMAL.format(model=MODEL, data=tmp_path / "dapo.jsonl", input="input", label="label"))
    assert [m["step"] for m in lines(out / "metrics.jsonl")] == [1, 2]


@pytest.mark.release
def test_minimal_configuration_on_gsm8k(train, shared):
    data = shared / "data" / "benchmarks" / "gsm8k.jsonl"
    out, _ = train(MINIMAL.format(model=MODEL, data=data, input="problem", label="answer"))
    assert [m["step"] for m in lines(out / "metrics.jsonl")] == [1, 2]
    assert lines(out / "metrics.jsonl")[0]["verifier/error"] == 0


@pytest.fixture
def cluster():
    """Yield the address of a Ray cluster that was started in another folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    argv = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=16", "--num-gpus=16",
            "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    head = subprocess.Popen(list(map(str, argv)), cwd="/", start_new_session=True, **quiet)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        address = f"127.0.0.1:{port}"
        # The port accepts connections before the node has registered.
        there = f"import ray; ray.init({address!r}); raise SystemExit(ray.cluster_resources().get('GPU') != 16)"
        for _ in range(10):
            if subprocess.run([sys.executable, "-c", there], cwd="/", timeout=120, **quiet).returncode == 0:
                break
            time.sleep(1)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(30)


@pytest.mark.release
def test_joins_a_cluster_whose_workers_run_in_another_folder(tmp_path, command, cluster):
    (tmp_path / "run.yaml").write_text(TOY)
    (tmp_path / "data.jsonl").write_text((REPO / "data" / "toy" / "train.jsonl").read_text())
    argv = [sys.executable, "-m", "openrlhf_mel.train", "--config", "run.yaml", "--mel.run_dir", "a/../out",
            "--data.prompt_dataset", "data.jsonl"]  # fmt: skip
    env = os.environ | {"RAY_ADDRESS": cluster, "PYTHONPATH": str(REPO)}
    done = command(*argv, limit=500, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert [m["step"] for m in lines(tmp_path / "out" / "metrics.jsonl")] == [1, 2]
    changed(tmp_path / "out")
