"""A job that is stopped, preempted, cancelled or loses a node: what it does then, with a stand-in for the trainer."""

import json

import pytest

pytestmark = pytest.mark.timeout(120)
SMOKE = "slurm/smoke.sbatch"


def starts(project, run="smoke"):
    return [json.loads(line) for line in (project.folder / "runs" / run / "starts.jsonl").read_text().splitlines()]


def test_a_job_near_its_end_saves_and_comes_back(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 30)
    cluster.wait_for(number, "step 3", limit=30)
    cluster.signal(number, "USR2")
    cluster.wait_for(number, "back into the queue (restart 1 of at most 20)", limit=20)
    cluster.wait_for_restart(number, 1, limit=40)
    job = cluster.wait(number, limit=40)
    assert (job.state, job.restarts) == ("COMPLETED", 1), job.output
    first, second = starts(trainer)
    assert first["from"] == 0 and 3 <= second["from"] < 30  # the second attempt took it up
    assert "--ckpt.load_enable" in first["argv"]
    assert job.output.count("stop file found, saved") == 1  # the old stop file did not stop the second
    assert f"finished: {trainer.folder}/runs/smoke" in job.output
    attempts = trainer.folder / "slurm" / "logs" / f"smoke-{number}"
    assert sorted(p.name for p in attempts.iterdir()) == ["0", "1", "latest"]
    assert (attempts / "latest").resolve().name == "1"


def test_restarts_have_a_cap(trainer, cluster):
    trainer.site(MEL_MAX_REQUEUES=0)
    number = trainer.submit(SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 1", limit=30)
    cluster.signal(number, "USR2")
    job = cluster.wait(number, limit=30)
    assert (job.state, job.restarts) == ("FAILED", 0)
    assert "not requeued: this was restart 0, and MEL_MAX_REQUEUES=0" in job.output


@pytest.mark.slow
def test_a_lost_node_and_a_preemption_without_warning_are_taken_up(trainer, cluster):
    number = trainer.submit("--nodes=2", SMOKE, "--steps", 60)
    cluster.wait_for(number, "step 3", limit=30)
    cluster.down(cluster.nodes_of(number)[1])
    cluster.wait_for_restart(number, 1, limit=40)
    cluster.wait_for(number, "attempt 2", limit=20)
    trainer.run(
        "--partition=high",
        f"--nodelist={','.join(cluster.nodes_of(number))}",
        "--exclusive",
        "--wrap",
        "true",
        limit=60,
    )
    cluster.wait_for_restart(number, 2, limit=40)
    job = cluster.wait(number, limit=40)
    assert job.state == "COMPLETED", job.output
    assert (trainer.folder / "runs" / "smoke" / "steps").read_text() == "60"
    begun = [start["from"] for start in starts(trainer)]
    assert begun == sorted(begun) and begun[0] == 0 and begun[-1] > 0


@pytest.mark.slow
def test_a_node_that_fails_under_the_run_is_named_and_the_job_comes_back(trainer, cluster, tmp_path):
    """Ray sees it long before Slurm does."""
    broken = tmp_path / "n1-is-broken"
    probe = tmp_path / "probe"
    probe.write_text(f"#!/bin/sh\n[ $SLURMD_NODENAME = n1 ] && [ -e {broken} ] && echo 7 || echo 8\n")
    probe.chmod(0o755)
    trainer.site(MEL_GPU_PROBE=probe, BROKEN=broken)
    number = trainer.submit("--nodes=2", "--nodelist=n0,n1", "--gpus-per-node=8", SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=30)
    broken.touch()
    cluster.wait_for(number, "back into the queue", limit=30)
    broken.unlink()
    output = cluster.wait_for_restart(number, 1, limit=40).output
    assert "a node's Ray has ended" in output and "error: node n1: 8 GPUs were asked for, 7 found" in output
    cluster.wait_for(number, "step 9", limit=30)
    assert [start["from"] > 0 for start in starts(trainer)] == [False, True]


def test_a_stop_file_of_the_users_own_ends_the_job(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 200)
    cluster.wait_for(number, "step 2", limit=30)
    (trainer.folder / "runs" / "smoke" / "stop").touch()
    job = cluster.wait(number, limit=20)
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 75, 0)
    assert "it stays stopped" in job.output


def test_a_cancelled_job_does_not_come_back(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 200)
    cluster.wait_for(number, "step 2", limit=30)
    cluster.cancel(number)
    assert cluster.wait(number, limit=30).state == "CANCELLED"


def test_failed_training_is_not_tried_again(trainer, cluster):
    job = trainer.run(SMOKE, "--steps", 5, "--die-at", 3, limit=40)
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 1, 0)
    assert f"training ended with exit code 1; its log: {trainer.folder}/runs/smoke/logs/train.log" in job.output


def test_each_variant_has_a_folder_of_its_own(trainer):
    job = trainer.run(SMOKE, "--mel.algorithm=rft", "--mel.enable", "false", "--train.seed", 3, limit=40)
    assert job.state == "COMPLETED", job.output
    assert [start["argv"][-4:] for start in starts(trainer, "smoke-rft-plain-seed3")] == [
        ["--mel.enable", "false", "--train.seed", "3"]
    ]


def test_secrets_come_from_a_file_that_nobody_else_reads(trainer):
    secrets = trainer.folder / "secrets"
    secrets.write_text("WANDB_API_KEY=do-not-tell\n")
    secrets.chmod(0o644)
    trainer.site(MEL_SECRETS=secrets)
    job = trainer.run(SMOKE, limit=30)
    assert job.state == "FAILED" and "others may read it (mode 644)" in job.output
    secrets.chmod(0o600)
    job = trainer.run(SMOKE, limit=40)
    assert job.state == "COMPLETED", job.output
    everything = [path for path in trainer.folder.rglob("*") if path.is_file() and path != secrets]
    assert not [path for path in everything if "do-not-tell" in path.read_text(errors="replace")]
