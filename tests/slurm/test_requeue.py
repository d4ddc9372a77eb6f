"""A job that is stopped, preempted, cancelled or loses a node: what it does then, with a stand-in for the trainer."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
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
    spare = ("--nodes=2", "--exclude=n3,n4,n5,n6,n7", "--gpus-per-node=8")
    number = trainer.submit(*spare, SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=30)
    assert cluster.nodes_of(number) == ["n0", "n1"]
    broken.touch()  # and it stays broken
    cluster.wait_for(number, "back into the queue", limit=30)
    output = cluster.wait_for_restart(number, 1, limit=40).output
    assert "a node's Ray has ended" in output and "error: node n1: 8 GPUs were asked for, 7 found" in output
    assert cluster.nodes_of(number) == ["n0", "n2"], output
    assert "without n1,n[3-7] from now on" in output
    cluster.wait_for(number, "step 9", limit=30)
    assert [start["from"] > 0 for start in starts(trainer)] == [False, True]


@pytest.mark.slow
def test_a_restart_on_a_node_that_is_not_fit_is_tried_again_within_the_cap(trainer, cluster, tmp_path):
    """Nodes that were chosen by name cannot be left out."""
    broken, probe = tmp_path / "broken", tmp_path / "probe"
    probe.write_text(f"#!/bin/sh\n[ -e {broken} ] && echo 7 || echo 8\n")
    probe.chmod(0o755)
    trainer.site(MEL_GPU_PROBE=probe, MEL_MAX_REQUEUES=2)
    number = trainer.submit("--nodelist=n0", "--gpus-per-node=8", SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=30)
    broken.touch()
    cluster.signal(number, "USR2")
    job = cluster.wait(number, limit=80)
    assert (job.state, job.restarts) == ("FAILED", 2), job.output
    assert "not requeued: this was restart 2" in job.output and "from now on" not in job.output


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_save_that_takes_longer_than_the_time_that_was_left(trainer, cluster):
    """The limit's TERM comes before the trainer has ended: the job goes back all the same, what waits for it waits on."""
    trainer.site(MEL_MAX_REQUEUES=1)
    trainer.stand_in(**{"openrlhf_mel.train": "slow.py"})
    number = trainer.submit("--time=1", "--signal=B:USR2@30", SMOKE)
    cluster.wait_for(number, "terminated by Slurm", limit=150)
    cluster.wait_for(number, "back into the queue (restart 1 of at most 1)", limit=20)
    cluster.wait_for_restart(number, 1, limit=60)


def test_a_stop_file_of_the_users_own_ends_the_job(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 200)
    cluster.wait_for(number, "step 2", limit=30)
    (trainer.folder / "runs" / "smoke" / "stop").touch()
    job = cluster.wait(number, limit=20)
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 75, 0)
    assert "it stays stopped" in job.output
    assert not (trainer.folder / "runs" / "smoke" / "stop").exists()


def test_whose_stop_file_it_is(trainer, cluster):
    stop = trainer.folder / "runs" / "smoke" / "stop"
    stop.parent.mkdir(parents=True)
    stop.touch()  # while the job waits
    job = trainer.run(SMOKE, limit=30)
    assert (job.state, job.exit_code) == ("FAILED", 75) and "remove it to go on" in job.output and stop.exists()
    other = trainer.submit("--output=/dev/null", "--wrap", "exec sleep 60")
    cluster.wait_for_restart(other, 0, limit=20)
    stop.write_text(f"{other}\n")
    job = trainer.run(SMOKE, limit=30)
    assert job.state == "FAILED" and f"job {other} is running in" in job.output and stop.exists()
    stop.write_text("1\n")  # of a job that is over
    job = trainer.run(SMOKE, limit=30)
    assert job.state == "COMPLETED", job.output
    # nothing is left to do: not even a node is looked at
    trainer.site(MEL_RUN_FREE_GB=10**6)
    job = trainer.run(SMOKE, limit=30)
    assert job.state == "COMPLETED" and "finished already: " in job.output


def test_what_the_trainer_refuses_is_not_in_its_log(trainer):
    job = trainer.run(SMOKE, "--die-at", 1, "--die-with", 2, limit=40)
    assert job.state == "FAILED" and "training was refused, see above" in job.output and "train.log" not in job.output


@pytest.mark.parametrize("text", ["mel: {run_dir: runs/mine}\n", "mel:\n  run_dir: runs/mine\n"])
def test_a_run_dir_in_a_yaml(command, tmp_path, text):
    config = tmp_path / "my.yml"
    config.write_text(text)
    shell = '. slurm/lib/job.sh; config=; read_flags "$@"; echo "$RUN_DIR"'
    done = command("bash", "-c", shell, "-", config, limit=20)
    assert done.returncode == 1 and "pass --mel.run_dir instead" in done.stderr
    config.write_text(f"# {text}")
    done = command(
        "bash", "-c", shell, "-", config, "--mel.run_dir=/a/b" if "\n " in text else "--train.seed=1", limit=20
    )
    assert done.stdout.strip().endswith("/a/b" if "\n " in text else "/runs/my-seed1"), done.stderr


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
