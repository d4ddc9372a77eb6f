"""slurm/first_hour.py, as far as a CPU goes: everything but vLLM."""

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "first_hour.py"


@pytest.fixture
def first_hour(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import first_hour

    return first_hour


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(500)
def test_on_the_cpu_runtime(project):
    job = project.run("--gpus-per-node=0", "--cpus-per-task=2", "--mem=12G", "slurm/first-hour.sbatch", limit=450)
    assert job.state == "COMPLETED", job.output
    (path,) = (project.folder / "slurm" / "logs").glob("first-hour-*/0/first_hour.json")
    found = {result["name"]: result["passed"] for result in json.loads(path.read_text())}
    assert [name for name, passed in found.items() if passed is None] == ["GPUs", "vLLM sleeps and wakes"]
    assert [name for name, passed in found.items() if passed] == [
        "packages",
        "grading",
        "training",
        "checkpoint and resume",
        "log-probs: engine against actor",
        "log-probs after weights were handed over",
        "construction while the engine is awake",
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("gaps", "passed"),
    # measured on the CPU runtime: with its hand-over, and with one that does nothing
    [([-0.00004, 0.0002, 0.0002], True), ([0.0299, 0.1050, 0.1543], False), ([], False)],
)
def test_weights_that_were_not_handed_over_show(first_hour, gaps, passed):
    result = first_hour._same("log-probs", gaps, "do something")
    assert result.passed is passed and ("do something" in str(result)) is not passed


@pytest.mark.timeout(60)
def test_what_never_answers_is_a_failure(first_hour, tmp_path, monkeypatch):
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 30\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(first_hour.sys, "executable", str(hangs))
    monkeypatch.setattr(first_hour, "PATIENCE_S", 1)
    (result,) = first_hour.in_time("vLLM", first_hour.sleep_and_wake("model", cuda=True))
    assert result.passed is False and result.seen == "no answer within 1 s" and result.advice
    monkeypatch.setattr(first_hour, "TRAINING_S", 1)
    training = first_hour.Training("data/toy/model", tmp_path, cuda=False)
    assert training.run() == "no checkpoint of step 2 within 1 s"
    monkeypatch.setattr(training, "_saved", lambda step: True)
    assert training.run() == "the resumed training did not end within 1 s"


@pytest.mark.timeout(60)
def test_a_training_that_dies_is_told(first_hour, tmp_path, monkeypatch):
    monkeypatch.setattr(first_hour.sys, "executable", "/bin/false")
    results = {result.name: result for result in first_hour.training("data/toy/model", tmp_path, cuda=False)}
    assert "ended with exit code 1 before step 2" in results["training"].seen
    assert not any(result.passed for result in results.values())
