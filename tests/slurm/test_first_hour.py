"""slurm/first_hour.py, as far as a CPU goes: everything but vLLM."""

import json
import time
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


def gone(pid, limit=10):
    """Whether a process has ended. One that nobody has reaped yet has."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.timeout(60)
def test_what_a_check_has_started_ends_with_it(first_hour, tmp_path, monkeypatch):
    """A grandchild that tidies up is given the time for it; one that does not listen is killed."""
    monkeypatch.setattr(first_hour.process_group, "GRACE_S", 1)
    (tmp_path / "tidy").write_text(
        "trap 'echo tidied >tidied; exit' TERM\necho $$ >tidy.pid\nwhile :; do sleep 0.1; done\n"
    )
    (tmp_path / "deaf").write_text("trap '' TERM\necho $$ >deaf.pid\nwhile :; do sleep 0.1; done\n")
    hangs = tmp_path / "hangs"
    hangs.write_text(f"#!/bin/sh\ncd {tmp_path}\nsh deaf & sh tidy & wait\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(first_hour.sys, "executable", str(hangs))
    monkeypatch.setattr(first_hour, "PATIENCE_S", 1)
    (result,) = first_hour.in_time("vLLM", first_hour.sleep_and_wake("model", cuda=True))
    assert result.passed is False and result.seen == "no answer within 1 s"
    assert (tmp_path / "tidied").read_text() == "tidied\n"
    assert gone((tmp_path / "tidy.pid").read_text().strip()) and gone((tmp_path / "deaf.pid").read_text().strip())


@pytest.mark.timeout(60)
def test_what_a_check_leaves_behind_ends_too(first_hour, tmp_path):
    """It would hold GPU memory, or its output's end, in the next check."""
    script = f"sleep 300 >/dev/null 2>&1 & echo $! >{tmp_path}/pid; echo done"
    done = first_hour.process_group.run(["sh", "-c", script], 30)
    assert (done.returncode, done.stdout) == (0, "done\n") and gone((tmp_path / "pid").read_text().strip())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ({0: 6.02, 1: 6.01}, {0: 6.10, 1: 5.70}, True),
        (
            {0: 6.0, 1: 6.0},
            {0: 6.0, 1: 8.2},
            False,
        ),  # Adam's states of 0.6 billion parameters on two GPUs, on one of them
        ({i: 4.0 for i in range(8)}, {i: 4.56 for i in range(8)}, False),  # ... and on eight
        ({0: 6.0}, {0: 6.0 + 0.25}, True),
        ({0: 6.0}, {0: 6.0 + 0.26}, False),
        ({}, {}, False),
        ({0: 6.0}, {}, False),
        ({0: 6.0}, {0: 6.0, 1: 1.0}, False),
        ({}, {0: 6.0}, False),
        ({0: 9.0}, {0: 3.0}, True),
    ],
)
def test_gpu_memory_that_grew_over_a_resume(first_hour, before, after, passed):
    result = first_hour.memory(before, after)
    assert result.passed is passed
    assert ("not measured" in result.seen) == (not before.keys() & after.keys())


@pytest.mark.timeout(60)
def test_gpu_memory_is_measured_over_a_step_of_each_half(first_hour, tmp_path, monkeypatch):
    """The least, from one checkpoint to the next: not while a model is loaded, and not in the rollout alone."""
    training = first_hour.Training("data/toy/model", tmp_path, cuda=False)
    training._cuda = True
    latest = training.run_dir / "checkpoints" / "_actor" / "latest"
    latest.parent.mkdir(parents=True)
    use = [(None, 0.1), (1, 40.0), (1, 6.0), (1, 20.0), (2, 3.0), (2, 0.1), (3, 41.0), (3, 8.2), (4, 1.0)]
    moments = iter(use)

    def used():
        return [level, level + 1]

    def sleep(_):
        nonlocal level
        step, level = next(moments)
        if step:
            latest.write_text(f"global_step{step}")

    level = 0.0
    monkeypatch.setattr(first_hour.gpu_memory, "used_gib", used)
    monkeypatch.setattr(first_hour.time, "sleep", sleep)
    process = type("Process", (), {"poll": lambda self: None})()
    assert training._watch(process, 2, training.before) is False
    assert training._watch(process, 4, training.after) is False
    assert (training.before, training.after) == ({0: 6.0, 1: 7.0}, {0: 8.2, 1: 9.2})
    assert first_hour.memory(training.before, training.after).passed is False
