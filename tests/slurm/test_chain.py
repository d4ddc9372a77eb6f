"""submit_experiment.sh and the evaluation's job array."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def submit(project):
    """Run slurm/submit_experiment.sh in the project; return the process and the ids of the submitted jobs."""

    def run(*arguments, code=0):
        project.site()
        done = subprocess.run(
            ["slurm/submit_experiment.sh", *map(str, arguments)], cwd=project.folder, env=project.cluster.environment,
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        ids = [line.split()[2] for line in done.stdout.splitlines() if " job " in line]
        project.jobs.extend(ids)
        return done, ids

    return run


@pytest.mark.timeout(400)
def test_a_dry_run_submits_nothing(submit, cluster):
    done, ids = submit("smoke", "--dry-run", "--mel.algorithm=rft")
    assert ids == [] and done.stdout == ""
    training, evaluation = (line for line in done.stderr.splitlines() if line.startswith("sbatch "))
    assert training == "sbatch slurm/smoke.sbatch --config slurm/configs/train/smoke.yaml --mel.algorithm=rft"
    assert "--dependency=afterok:TRAINING_JOB --kill-on-invalid-dep=yes" in evaluation
    assert "slurm/configs/eval/smoke.yaml" in evaluation and "runs/smoke-rft --output-dir" in evaluation
    assert cluster.queue() == []


@pytest.mark.timeout(400)
def test_what_preflight_refuses_is_not_submitted(submit, cluster):
    done, _ = submit("smoke", "--data.max_len=10", code=1)
    assert "--data.max_len" in done.stderr and "nothing was submitted" in done.stderr and cluster.queue() == []
    done, _ = submit("no-such-preset", code=1)
    assert "slurm/configs/train/no-such-preset.yaml: no such file" in done.stderr
    done, _ = submit(code=2)
    assert "submit_experiment.sh CONFIG" in done.stderr


@pytest.fixture
def fake_sbatch(project, tmp_path, monkeypatch):
    """Replace sbatch by shell commands."""

    def make(commands):
        fake = tmp_path / "bin" / "sbatch"
        fake.parent.mkdir()
        fake.write_text(f"#!/bin/sh\n{commands}\n")
        fake.chmod(0o755)
        monkeypatch.setitem(project.cluster.environment, "PATH", f"{fake.parent}:{os.environ['PATH']}")

    return make


def test_defaults_of_the_login_node_stay_there(project, submit, fake_sbatch, tmp_path, monkeypatch):
    """sbatch passes its environment to the job, where a default would look like the user's choice."""
    fake_sbatch(f"env >>{tmp_path}/said; echo 77")
    (tmp_path / "secrets").write_text("HF_TOKEN=hf_secret\n")
    (tmp_path / "secrets").chmod(0o600)
    project.site(MEL_MIN_FREE_GB=None, MEL_SECRETS=tmp_path / "secrets", MEL_INTERFACE="ib0", SBATCH_ACCOUNT="us")
    monkeypatch.setitem(project.cluster.environment, "TMPDIR", str(tmp_path))
    submit("qwen3-8b", "--skip-preflight")
    found = dict(line.split("=", 1) for line in (tmp_path / "said").read_text().splitlines() if "=" in line)
    own = {"MEL_CHECK_S": "60", "MEL_SECRETS": f"{tmp_path}/secrets", "MEL_INTERFACE": "ib0", "SBATCH_ACCOUNT": "us"}
    ours = ("MEL_", "SBATCH_", "NCCL_", "GLOO_", "HF_TOKEN", "TORCH", "TRITON", "VLLM", "FLASHINFER")
    assert {name: value for name, value in found.items() if name.startswith(ours)} == own


@pytest.mark.parametrize(
    ("training", "evaluation", "says"),
    [(1, 0, "the training was refused"), (0, 1, "training job 77 is in the queue, its evaluation was refused")],
)
def test_a_submission_that_slurm_refuses(submit, fake_sbatch, training, evaluation, says):
    fake_sbatch(f'case "$*" in *eval.sbatch*) [ {evaluation} = 0 ] ;; *) [ {training} = 0 ] ;; esac && echo 77')
    done, _ = submit("smoke", "--skip-preflight", code=1)
    assert says in done.stderr and done.stdout == "" and (training == 0 or "eval.sbatch" not in done.stderr)


@pytest.mark.parametrize(
    ("python", "code", "says"),
    [
        (None, 0, "this machine cannot run MEL_PYTHON: preflight is left to the job"),
        ("exit 1", 1, "preflight ended with exit code 1: nothing was submitted (--skip-preflight"),
        ("exit 2", 1, "preflight refused slurm/configs/train/smoke.yaml: nothing was submitted"),
    ],
    ids=["a container's", "fails", "refuses"],
)
def test_what_became_of_preflight(project, submit, tmp_path, python, code, says):
    """Only exit code 2 means that preflight refused the configuration."""
    if python:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
        (tmp_path / "python").chmod(0o755)
    project.site(MEL_CONTAINER="/images/mel.sqsh", MEL_PYTHON=tmp_path / "python")
    done, _ = submit("smoke", "--dry-run", code=code)
    assert says in done.stderr and ("sbatch slurm/smoke.sbatch" in done.stderr) == (code == 0)
    assert code == 1 or "refused" not in done.stderr


def test_preflight_knows_the_card(project, submit):
    for memory, code in ((40, 1), (80, 0)):
        project.site(MEL_GPU="a100", MEL_GPU_MEMORY_GB=memory, MEL_NODE_MEMORY_GB=1000)
        done, _ = submit("qwen3-14b", "--dry-run", "--skip-files", code=code)
        assert f"({memory} GB a100)" in done.stderr
        assert ("nothing was submitted" in done.stderr) == bool(code)
    project.site(MEL_NODE_MEMORY_GB=64)
    done, _ = submit("qwen3-14b", "--dry-run", "--skip-files", code=1)
    assert "error: host memory of a node" in done.stderr and "found 64" in done.stderr


def test_flags_of_sbatch(project, submit, tmp_path):
    """The training's come from --sbatch (also read by preflight), the evaluation's from the YAML, quoted or not."""
    project.stand_in(**{"openrlhf_mel.preflight": "says.py"})
    for quote in ("", '"', "'"):
        evaluation = tmp_path / "eval.yaml"
        evaluation.write_text(f"sbatch: {quote}--array=0-1 --gpus-per-node=4{quote}  # two\n")
        done, _ = submit(
            "qwen3-4b", "--dry-run", "--eval", evaluation, "--sbatch", "-N 2 --gpus-per-node=h100:4 --exclude=n7"
        )
        assert "sbatch -N 2 --gpus-per-node=h100:4 --exclude=n7 slurm/qwen3-4b.sbatch --config" in done.stderr
        assert "--kill-on-invalid-dep=yes --array=0-1 --gpus-per-node=4 slurm/eval.sbatch" in done.stderr
        assert "--nodes 2 --gpus-per-node 4 " in done.stderr
    done, _ = submit("qwen3-4b", "--dry-run", "--sbatch-eval", "--time=01:00:00 --gpus-per-node=a100:4")
    assert "--nodes 1 --gpus-per-node 8 " in done.stderr
    assert "--array=0-4 --gpus-per-node=4 --time=01:00:00 --gpus-per-node=a100:4 slurm/eval.sbatch" in done.stderr
    assert done.stderr.count("--time=") == 1
    done, _ = submit("qwen3-4b", "--dry-run", "--sbatch", "--gpus-per-node=0 --gres=gpu:h100:8")
    assert "--nodes 1 --gpus-per-node 8 " in done.stderr


def test_which_evaluation(project, submit, tmp_path):
    for name in ("qwen2.5-32b", "mine"):
        config = tmp_path / f"{name}.yaml"
        config.write_text((REPO / "slurm" / "configs" / "train" / "qwen2.5-32b.yaml").read_text())
        done, _ = submit(config, "--like", "qwen2.5-32b", "--dry-run", "--skip-preflight")
        assert "--mem=256G slurm/eval.sbatch --config slurm/configs/eval/qwen2.5-32b.yaml" in done.stderr
    done, _ = submit("qwen3-8b", "--dry-run", "--skip-preflight")
    assert "--config slurm/configs/eval/paper.yaml" in done.stderr
    done, _ = submit("qwen3-8b", "--dry-run", "--skip-preflight", "--eval", "not/there.yaml", code=1)
    assert f"--eval {project.folder}/not/there.yaml: no such file" in done.stderr


@pytest.mark.timeout(400)
def test_failed_training_ends_the_chain(trainer, submit, cluster):
    """The evaluation neither runs nor stays in the queue."""
    _, (training, evaluation) = submit("smoke", "--skip-preflight", "--die-at", 2)
    assert cluster.wait(training, limit=90).state == "FAILED"
    job = cluster.wait(evaluation, limit=90)
    assert job.state == "CANCELLED" and job.output == ""
    assert not (trainer.folder / "runs" / "smoke-eval").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_evaluation_waits_through_a_restart(trainer, submit, cluster):
    _, (training, evaluation) = submit("smoke", "--skip-preflight", "--steps", 100)
    cluster.wait_for(training, "step 3", limit=90)
    cluster.signal(training, "USR2")
    cluster.wait_for_restart(training, 1, limit=90)
    assert cluster.job(evaluation).state == "PENDING"
    assert cluster.wait(training, limit=90).state == "COMPLETED"
    job = cluster.wait(evaluation, limit=60)
    assert job.state == "FAILED" and "slurm/lib" not in job.output  # it ran, but the stand-in saved no model
    assert "holds no model and no checkpoint" in job.output or "no manifest.json of a training run" in job.output, (
        job.output
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_training_then_its_evaluation(submit, project, cluster):
    done, (training, evaluation) = submit("smoke")
    assert f"results: {project.folder}/runs/smoke-eval" in done.stdout
    assert cluster.job(evaluation).state == "PENDING"
    assert cluster.wait(training, limit=360).state == "COMPLETED", cluster.job(training).output
    job = cluster.wait(evaluation, limit=200)
    assert job.state == "COMPLETED", job.output
    found = json.loads((project.folder / "runs" / "smoke-eval" / "model" / "metrics.json").read_text())
    assert found["model"] == "smoke/model" and found["benchmarks"]["test"]["n_questions"] == 64
    assert 0 < found["average"]["avg@4"] < 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_array_over_benchmarks(project, cluster):
    """Two elements, one benchmark each; the last to finish merges the results."""
    flags = ["--config", "slurm/configs/eval/smoke.yaml", "--benchmarks", "test,train", "--model", "data/toy/model",
             "--template", "data/toy/templates", "--limit", 8, "--output-dir", "out"]  # fmt: skip
    number = project.submit(
        "--array=3-4", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=4G", "slurm/eval.sbatch", *flags
    )
    for element in (3, 4):
        job = cluster.wait(f"{number}_{element}", limit=180)
        assert job.state == "COMPLETED", job.output
    found = json.loads((project.folder / "out" / "metrics.json").read_text())
    assert {name: entry["n_samples"] for name, entry in found["benchmarks"].items()} == {"test": 40, "train": 40}
    assert len(list((project.folder / "slurm" / "logs").glob(f"eval-{number}_[34].log"))) == 2


@pytest.fixture
def evaluate(tmp_path, command):
    """Run the command of one array element."""

    def run(config, *flags, element=None, code=0):
        (tmp_path / "eval.yaml").write_text(yaml.safe_dump(config))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        if element:
            index, count = element
            environment |= {
                "SLURM_ARRAY_TASK_ID": str(index),
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": str(count),
            }
        done = command(
            sys.executable,
            "-m",
            "slurm.lib.evaluate",
            "--config",
            tmp_path / "eval.yaml",
            *flags,
            limit=100,
            env=environment,
        )
        assert done.returncode == code, done.stderr
        return done

    return run


TOY = {"data_dir": "data/toy", "benchmarks": ["test"], "backend": "hf", "limit": 4, "n": 2, "temperature": 1.0,
       "max_tokens": 64, "template": "data/toy/templates", "model": "data/toy/model"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_seeds_give_means_and_spreads(evaluate, tmp_path):
    evaluate(TOY | {"over": "seeds", "seeds": [5, 6]}, "--output-dir", tmp_path / "out")
    [found] = json.loads((tmp_path / "out" / "seeds.json").read_text())
    single = [json.loads((tmp_path / "out" / f"seed-{s}" / "metrics.json").read_text()) for s in (5, 6)]
    assert found["seeds"] == [5, 6]
    assert found["average"]["avg@2"] == pytest.approx(sum(s["average"]["avg@2"] for s in single) / 2)
    assert found["benchmarks"]["test"]["mean_sd"].keys() == found["average"].keys()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_element_alone_does_not_merge(evaluate, tmp_path):
    two = TOY | {"benchmarks": ["test", "train"], "limit": 2}
    done = evaluate(two, "--output-dir", tmp_path / "out", element=(1, 2))
    assert "not done yet: test" in done.stdout and not (tmp_path / "out" / "metrics.json").exists()
    evaluate(two, "--output-dir", tmp_path / "out", element=(0, 2))
    assert set(json.loads((tmp_path / "out" / "metrics.json").read_text())["benchmarks"]) == {"test", "train"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"over": "questions"}, "over: found 'questions', expected one of benchmarks, seeds, checkpoints"),
        ({"over": "checkpoints"}, "over: checkpoints needs --run"),
        ({"over": "seeds"}, "over: seeds: found no seeds; expected seeds with over: seeds, and with it alone"),
        ({"seeds": [0, 1]}, "over: benchmarks: found the seeds 0,1; expected seeds with over: seeds"),
        ({"over": "seeds", "seeds": [0, 0]}, "--seeds 0,0: found 0 twice"),
        ({"over": "seeds", "seeds": "x"}, "--seeds x: found 'x', expected whole numbers"),
        (
            {"shorten": True},
            "--shorten: found over: benchmarks, where each part would shorten to its own longest prompt",
        ),
        ({"temprature": 1}, "--temprature"),
    ],
)
def test_mistakes_of_an_evaluations_configuration(change, says, tmp_path, capsys, monkeypatch):
    from slurm.lib import evaluate

    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(TOY | change))
    try:
        code = evaluate.main(["--config", str(tmp_path / "eval.yaml"), "--output-dir", str(tmp_path / "out")])
    except SystemExit as error:  # argparse
        code = error.code
    assert code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(("name", "engines", "gpus"), [("paper", 4, 1), ("qwen2.5-32b", 1, 4)])
def test_engines_of_a_node_of_four_gpus(name, engines, gpus, monkeypatch):
    from slurm.lib import evaluate

    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    config = REPO / "slurm" / "configs" / "eval" / f"{name}.yaml"
    flags, over, _ = evaluate.read(["--config", str(config), "--run", "runs/x", "--output-dir", "out"])
    found = evaluate.arguments.parser().parse_args(flags)
    assert (found.data_parallel, found.tensor_parallel or 1, over) == (engines, gpus, "benchmarks")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_prepare_data_from_a_folder(project, shared):
    """Tests the way for nodes without internet access."""
    folder = project.folder / "downloaded"
    (folder / "data").mkdir(parents=True)
    for path in (shared / "data" / "benchmarks").glob("*.jsonl"):
        (folder / path.name).symlink_to(path)
    (folder / "data" / "dapo-math-17k.parquet").symlink_to(shared / "data" / "train" / "dapo_math_17k_svs.parquet")
    job = project.run("slurm/prepare_data.sbatch", "downloaded", limit=300)
    assert job.state == "COMPLETED", job.output
    prepared = project.folder / "prepared"
    assert len((prepared / "dapo" / "train.jsonl").read_text().splitlines()) > 15000
    assert len((prepared / "dapo" / "validation.jsonl").read_text().splitlines()) == 200
    assert (prepared / "benchmarks" / "math500.jsonl").is_file()
