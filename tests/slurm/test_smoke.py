"""The smoke job itself, with nothing stood in for: Ray over the allocation, the trainer, the tiny model."""

import json
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
SMOKE = "slurm/smoke.sbatch"


def metrics(project, run="smoke"):
    return [json.loads(line) for line in (project.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]


def whole(project, job, run="smoke"):
    """What a finished run has to have left."""
    assert job.state == "COMPLETED", job.output
    folder = project.folder / "runs" / run
    assert json.loads((folder / "manifest.json").read_text())["finished"]
    assert (folder / "model" / "model.safetensors").is_file()
    rows = metrics(project, run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["mel/kept"] > 0 and row["loss/nll"] > 0 for row in rows)


def test_without_any_setting(project, cluster):
    """`sbatch slurm/smoke.sbatch` from the project's root, no site.env: at most 6 minutes on 2 cores."""
    started = time.monotonic()
    number = cluster.submit(SMOKE, cwd=project.folder)
    job = cluster.wait(number, limit=360)
    whole(project, job)
    assert time.monotonic() - started < 360
    assert "Ray: 1 of 1 nodes" in job.output and f"finished: {project.folder}/runs/smoke" in job.output


def test_over_two_nodes(project):
    job = project.run("--nodes=2", SMOKE, limit=360)
    whole(project, job)
    assert "Ray: 2 of 2 nodes" in job.output
    workers = [path.parent.name for path in project.folder.glob("slurm/logs/*/0/ray-*/worker-*.out")]
    assert set(workers) == {f"ray-{node}" for node in project.cluster.nodes_of(project.jobs[0])}  # a rank on each


def test_two_jobs_on_one_node(project, cluster):
    """Their ports, folders, CPUs and Rays are their own, and the end of one is none of the other's business."""
    numbers = [
        project.submit("--nodelist=n0", f"--job-name={run}", SMOKE, "--mel.run_dir", f"runs/{run}") for run in "ab"
    ]
    jobs = [cluster.wait(number, limit=500) for number in numbers]
    heads = {line.split()[-1] for job in jobs for line in job.output.splitlines() if "the head on n0" in line}
    assert len(heads) == 2
    for job, run in zip(jobs, "ab", strict=True):
        whole(project, job, run)


def test_preempted_without_warning_and_taken_up(project, cluster):
    """Another job takes the node in the middle; this one comes back by itself, and goes on from its last checkpoint."""
    number = project.submit("--nodelist=n2", SMOKE)
    cluster.wait_for(number, "step 2 ", limit=200)
    project.submit("--partition=high", "--nodelist=n2", "--exclusive", "--wrap", "true")
    cluster.wait_for_restart(number, 1, limit=90)
    job = cluster.wait(number, limit=300)
    whole(project, job)
    assert "attempt 2" in job.output and job.output.count("step 1 ") == 1
