"""The smoke job without stand-ins: Ray over the allocation, the trainer, the tiny model."""

import contextlib
import json
import os
import secrets
import sys
import threading
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
SMOKE = "slurm/smoke.sbatch"
TRANSFORMERS = "--mel.cpu_engine=transformers"  # starts 20 s faster than vLLM


def metrics(project, run="smoke"):
    return [json.loads(line) for line in (project.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]


def whole(project, job, run="smoke", steps=4):
    """Check what a finished run leaves."""
    assert job.state == "COMPLETED", job.output
    folder = project.folder / "runs" / run
    assert json.loads((folder / "manifest.json").read_text())["finished"]
    assert (folder / "model" / "model.safetensors").is_file()
    rows = metrics(project, run)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    # a construction that outlasts the first rollout is learned in the second step
    assert all(row["mel/kept"] > 0 and row["loss/nll"] > 0 for row in rows[1:])


@contextlib.contextmanager
def command_lines(words):
    """Collect, once a second, all command lines with one of `words`: any user of the machine could read them."""
    found, done = [], threading.Event()

    def look():
        while not done.wait(1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it has just ended
                    found.extend(line for line in [path.read_text(errors="replace")] if any(w in line for w in words))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield found
    done.set()
    thread.join()


@pytest.mark.release
def test_without_any_setting(project, cluster):
    """`sbatch slurm/smoke.sbatch` from the project's root works without site.env and without an activated environment.

    It takes at most 6 minutes on 2 cores and reveals no key.
    """
    path = [
        folder
        for folder in os.environ["PATH"].split(":")
        if Path(folder).resolve() != Path(sys.prefix, "bin").resolve()
    ]
    keys = {"HF_TOKEN": f"hf_{secrets.token_hex(17)}", "WANDB_API_KEY": secrets.token_hex(20)}
    started = time.monotonic()
    with command_lines(keys.values()) as telling:
        number = cluster.submit(SMOKE, cwd=project.folder, PATH=":".join(path), **keys)
        job = cluster.wait(number, limit=360)
    assert not telling
    left = [path for top in ("runs", "slurm/logs") for path in (project.folder / top).rglob("*") if path.is_file()]
    assert (project.folder / "runs" / "smoke" / "manifest.json") in left and len(left) > 20
    assert not [path for path in left if any(key.encode() in path.read_bytes() for key in keys.values())]
    whole(project, job)
    assert time.monotonic() - started < 360
    assert "Ray: 1 of 1 nodes" in job.output and f"finished: {project.folder}/runs/smoke" in job.output


@pytest.mark.release
def test_over_two_nodes(project):
    job = project.run("--nodes=2", SMOKE, TRANSFORMERS, limit=360)
    whole(project, job)
    assert "Ray: 2 of 2 nodes" in job.output
    workers = [path.parent.name for path in project.folder.glob("slurm/logs/*/0/ray-*/worker-*.out")]
    assert set(workers) == {f"ray-{node}" for node in project.cluster.nodes_of(project.jobs[0])}  # a rank on each


@pytest.mark.release
def test_two_jobs_on_one_node(project, cluster):
    """They share no ports, folders, CPUs or Ray, and the end of one does not affect the other."""
    numbers = [
        project.submit("--nodelist=n0", f"--job-name={run}", SMOKE, "--mel.run_dir", f"runs/{run}") for run in "ab"
    ]
    jobs = [cluster.wait(number, limit=500) for number in numbers]
    heads = {line.split()[-1] for job in jobs for line in job.output.splitlines() if "the head on n0" in line}
    assert len(heads) == 2
    for job, run in zip(jobs, "ab", strict=True):
        whole(project, job, run)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("signal", "lost node"), id="signal, lost node"),
        pytest.param(("signal", "requeue", "preemption", "lost node"), id="all", marks=pytest.mark.release),
    ],
)
def test_what_befalls_a_job_one_after_the_other(project, cluster, names):
    """The job is requeued each time; the run ends with every step once and no question twice."""
    steps = 2 * len(names) + 2
    number = project.submit(SMOKE, TRANSFORMERS, "--data.max_samples", steps * 16)
    events = {
        "signal": lambda: cluster.signal(number, "USR2"),
        "requeue": lambda: cluster.requeue(number),
        "preemption": lambda: project.submit(
            "--partition=high", f"--nodelist={cluster.nodes_of(number)[0]}", "--exclusive", "--wrap", "true"
        ),
        "lost node": lambda: cluster.down(cluster.nodes_of(number)[0]),
    }
    for restarts, name in enumerate(names, 1):
        cluster.wait_for(number, f"step {2 * restarts} ", limit=200)
        events[name]()
        cluster.wait_for_restart(number, restarts, limit=120)
    job = cluster.wait(number, limit=200)
    whole(project, job, steps=steps)
    assert job.restarts == len(names)
    archive = [
        json.loads(line)
        for line in (project.folder / "runs" / "smoke" / "meta_experiences.jsonl").read_text().splitlines()
    ]
    assert [e["step"] for e in archive] == sorted(e["step"] for e in archive)
    asked = {(e["question"], e["step"]) for e in archive}
    assert len({question for question, _ in asked}) == len(asked) > steps
    # another start of a finished run ends at once
    again = project.run(SMOKE, TRANSFORMERS, "--data.max_samples", steps * 16, limit=120)
    assert again.state == "COMPLETED" and "finished already" in again.output
    assert len(metrics(project)) == steps
