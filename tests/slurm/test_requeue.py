"""A job that is stopped, preempted, cancelled or loses a node, with a stand-in for the trainer."""

import json
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SMOKE = "slurm/smoke.sbatch"


def starts(project, run="smoke"):
    return [json.loads(line) for line in (project.folder / "runs" / run / "starts.jsonl").read_text().splitlines()]


def wait_for_starts(project, count, limit=90):
    """Wait until the trainer was started `count` times."""
    deadline = time.monotonic() + limit
    while len(starts(project)) < count:
        assert time.monotonic() < deadline, f"the trainer was started {len(starts(project))} times after {limit} s"
        time.sleep(0.2)


def test_a_job_near_its_end_saves_and_comes_back(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=60)
    cluster.signal(number, "USR2")
    cluster.wait_for(number, "back into the queue (restart 1 of at most 20)", limit=60)
    cluster.wait_for_restart(number, 1, limit=90)
    job = cluster.wait(number, limit=90)
    assert (job.state, job.restarts) == ("COMPLETED", 1), job.output
    first, second = starts(trainer)
    assert first["from"] == 0 and 3 <= second["from"] < 100  # the second attempt resumed
    assert "--ckpt.load_enable" in first["argv"]
    assert job.output.count("stop file found, saved") == 1  # the old stop file did not stop the second
    assert f"finished: {trainer.folder}/runs/smoke" in job.output
    attempts = trainer.folder / "slurm" / "logs" / f"smoke-{number}"
    assert sorted(p.name for p in attempts.iterdir()) == ["0", "1", "latest"]
    assert (attempts / "latest").resolve().name == "1"


def test_restarts_have_a_cap(trainer, cluster):
    trainer.site(MEL_MAX_REQUEUES=0)
    number = trainer.submit(SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 1", limit=60)
    cluster.signal(number, "USR2")
    job = cluster.wait(number, limit=60)
    assert (job.state, job.restarts) == ("FAILED", 0)
    assert "not requeued: this was restart 0, and MEL_MAX_REQUEUES=0" in job.output


@pytest.mark.slow
def test_a_job_that_slurm_has_put_back_blames_no_node(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 150)
    cluster.wait_for(number, "step 3", limit=60)
    cluster.down(cluster.nodes_of(number)[0])
    cluster.wait_for_restart(number, 1, limit=90)
    job = cluster.wait(number, limit=90)
    assert (job.state, job.restarts) == ("COMPLETED", 1), job.output
    assert "not fit" not in job.output and "refused" not in job.output
    assert job.fields["ExcNodeList"] == "(null)" and not trainer.logs("left-out")


@pytest.mark.slow
def test_a_lost_node_and_a_preemption_without_warning_are_taken_up(trainer, cluster):
    number = trainer.submit("--nodes=2", SMOKE, "--steps", 150)
    cluster.wait_for(number, "step 3", limit=60)
    cluster.down(cluster.nodes_of(number)[1])
    cluster.wait_for_restart(number, 1, limit=90)
    cluster.wait_for(number, "attempt 2", limit=60)
    trainer.run(
        "--partition=high",
        f"--nodelist={','.join(cluster.nodes_of(number))}",
        "--exclusive",
        "--wrap",
        "true",
        limit=60,
    )
    cluster.wait_for_restart(number, 2, limit=90)
    job = cluster.wait(number, limit=90)
    assert job.state == "COMPLETED", job.output
    assert (trainer.folder / "runs" / "smoke" / "steps").read_text() == "150"
    begun = [start["from"] for start in starts(trainer)]
    assert begun == sorted(begun) and begun[0] == 0 and begun[-1] > 0


@pytest.mark.slow
def test_a_node_that_fails_under_the_run_is_named_and_the_job_comes_back(trainer, cluster, tmp_path):
    """Ray notices the failure long before Slurm does."""
    broken = tmp_path / "n1-is-broken"
    probe = tmp_path / "probe"
    probe.write_text(f"#!/bin/sh\n[ $SLURMD_NODENAME = n1 ] && [ -e {broken} ] && echo 7 || echo 8\n")
    probe.chmod(0o755)
    trainer.site(MEL_GPU_PROBE=probe, BROKEN=broken)
    spare = ("--nodes=2", "--exclude=n3,n4,n5,n6,n7", "--gpus-per-node=8")
    number = trainer.submit(*spare, SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=60)
    assert cluster.nodes_of(number) == ["n0", "n1"]
    broken.touch()  # and it stays broken
    cluster.wait_for(number, "back into the queue", limit=60)
    output = cluster.wait_for_restart(number, 1, limit=90).output
    assert "a node's Ray has ended" in output and "error: node n1: 8 GPUs were asked for, 7 found" in output
    assert cluster.nodes_of(number) == ["n0", "n2"], output
    assert "without n1,n[3-7] from now on" in output
    wait_for_starts(trainer, 2)
    assert [start["from"] > 0 for start in starts(trainer)] == [False, True]


@pytest.mark.slow
def test_a_restart_on_a_node_that_is_not_fit_is_tried_again_within_the_cap(trainer, cluster, tmp_path):
    """Nodes requested by name cannot be excluded."""
    broken, probe = tmp_path / "broken", tmp_path / "probe"
    probe.write_text(f"#!/bin/sh\n[ -e {broken} ] && echo 7 || echo 8\n")
    probe.chmod(0o755)
    trainer.site(MEL_GPU_PROBE=probe, MEL_MAX_REQUEUES=2)
    number = trainer.submit("--nodelist=n0", "--gpus-per-node=8", SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=60)
    broken.touch()
    cluster.signal(number, "USR2")
    job = cluster.wait(number, limit=150)
    assert (job.state, job.restarts) == ("FAILED", 2), job.output
    assert "not requeued: this was restart 2" in job.output and "from now on" not in job.output


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_save_that_takes_longer_than_the_time_that_was_left(trainer, cluster):
    """The time limit's TERM comes before the trainer ends: the job is still requeued, and dependent jobs wait on."""
    trainer.site(MEL_MAX_REQUEUES=1)
    trainer.stand_in(**{"openrlhf_mel.train": "slow.py"})
    number = trainer.submit("--time=1", "--signal=B:USR2@30", SMOKE)
    cluster.wait_for(number, "DUE TO TIME LIMIT", limit=150)
    cluster.wait_for(number, "back into the queue (restart 1 of at most 1)", limit=60)
    cluster.wait_for_restart(number, 1, limit=60)


def test_a_stop_file_of_the_users_own_ends_the_job(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 200)
    cluster.wait_for(number, "step 2", limit=60)
    (trainer.folder / "runs" / "smoke" / "stop").touch()
    job = cluster.wait(number, limit=60)
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 75, 0)
    assert "it stays stopped" in job.output
    assert not (trainer.folder / "runs" / "smoke" / "stop").exists()


def test_whose_stop_file_it_is(trainer, cluster):
    stop = trainer.folder / "runs" / "smoke" / "stop"
    stop.parent.mkdir(parents=True)
    stop.touch()  # while the job waits
    job = trainer.run(SMOKE, limit=60)
    assert (job.state, job.exit_code) == ("FAILED", 75) and "remove it to go on" in job.output and stop.exists()
    other = trainer.submit("--output=/dev/null", "--wrap", "exec sleep 600")
    cluster.wait_for_restart(other, 0, limit=60)
    stop.write_text(f"{other}\n")
    job = trainer.run(SMOKE, limit=60)
    assert job.state == "FAILED" and f"job {other} is running in" in job.output and stop.exists()
    stop.write_text("1\n")  # left by a finished job
    job = trainer.run(SMOKE, limit=60)
    assert job.state == "COMPLETED", job.output
    # the run is finished: not even the nodes are checked
    trainer.site(MEL_RUN_FREE_GB=10**6)
    job = trainer.run(SMOKE, limit=60)
    assert job.state == "COMPLETED" and "finished already: " in job.output


def test_what_the_trainer_refuses_is_not_in_its_log(trainer):
    job = trainer.run(SMOKE, "--die-at", 1, "--die-with", 2, limit=90)
    assert job.state == "FAILED" and "training was refused, see above" in job.output and "train.log" not in job.output


@pytest.mark.parametrize("text", ["mel: {run_dir: runs/mine}\n", "mel:\n  run_dir: runs/mine\n"])
def test_a_run_dir_in_a_yaml(command, tmp_path, text):
    config = tmp_path / "my.yml"
    config.write_text(text)
    shell = '. slurm/lib/job.sh; config=; read_flags "$@"; echo "$RUN_DIR"'
    done = command("bash", "-c", shell, "-", config, limit=60)
    assert done.returncode == 1 and "pass --mel.run_dir instead" in done.stderr
    config.write_text(f"# {text}")
    done = command(
        "bash", "-c", shell, "-", config, "--mel.run_dir=/a/b" if "\n " in text else "--train.seed=1", limit=60
    )
    assert done.stdout.strip().endswith("/a/b" if "\n " in text else "/runs/my-seed1"), done.stderr


def test_a_cancelled_job_does_not_come_back(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 200)
    cluster.wait_for(number, "step 2", limit=60)
    cluster.cancel(number)
    assert cluster.wait(number, limit=60).state == "CANCELLED"


def test_failed_training_is_not_tried_again(trainer, cluster):
    job = trainer.run(SMOKE, "--steps", 5, "--die-at", 3, limit=90)
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 1, 0)
    assert f"training ended with exit code 1; its log: {trainer.folder}/runs/smoke/logs/train.log" in job.output


def test_each_variant_has_a_folder_of_its_own(trainer):
    job = trainer.run(SMOKE, "--mel.algorithm=rft", "--mel.enable", "false", "--train.seed", 3, limit=90)
    assert job.state == "COMPLETED", job.output
    assert [start["argv"][-4:] for start in starts(trainer, "smoke-rft-plain-seed3")] == [
        ["--mel.enable", "false", "--train.seed", "3"]
    ]


def test_secrets_come_from_a_file_that_nobody_else_reads(trainer):
    secrets = trainer.folder / "secrets"
    secrets.write_text("WANDB_API_KEY=do-not-tell\n")
    secrets.chmod(0o644)
    trainer.site(MEL_SECRETS=secrets)
    job = trainer.run(SMOKE, limit=60)
    assert job.state == "FAILED" and "others may read it (mode 644)" in job.output
    secrets.chmod(0o600)
    job = trainer.run(SMOKE, limit=90)
    assert job.state == "COMPLETED", job.output
    everything = [path for path in trainer.folder.rglob("*") if path.is_file() and path != secrets]
    assert not [path for path in everything if "do-not-tell" in path.read_text(errors="replace")]


def preempt(project, cluster, number):
    """Submit a job of a higher-priority partition for the same nodes."""
    nodes = ",".join(cluster.nodes_of(number))
    project.submit("--partition=high", f"--nodelist={nodes}", "--exclusive", "--output=/dev/null", "--wrap", "true")


def test_a_preemption_with_a_grace_time(trainer, cluster):
    """With a grace time Slurm ends the steps but not the batch script."""
    number = trainer.submit("--partition=grace", SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=60)
    preempt(trainer, cluster, number)
    cluster.wait_for(number, "the job is preempted", limit=60)
    cluster.wait_for_restart(number, 1, limit=90)
    job = cluster.wait(number, limit=90)
    assert (job.state, job.restarts) == ("COMPLETED", 1), job.output  # requeued once, not by Slurm and the script
    assert "all nodes are fit" not in job.output.split("the job is preempted")[1].split("attempt 2")[0]
    assert [start["from"] > 0 for start in starts(trainer)] == [False, True]


def test_the_evaluation_comes_back(trainer, cluster):
    """Of its array one element nears its time limit, one is preempted, one loses its node."""
    trainer.stand_in(**{"slurm.lib.evaluate": "evaluate.py"})
    small = ("--array=0-2", "--exclusive", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=1G", "--partition=grace")
    array = trainer.submit(*small, "slurm/eval.sbatch")
    elements = [f"{array}_{i}" for i in range(3)]
    for element in elements:
        cluster.wait_for(element, "evaluating, attempt 1", limit=60)
    cluster.signal(elements[0], "USR2")
    preempt(trainer, cluster, elements[1])
    cluster.down(cluster.nodes_of(elements[2])[0])
    for element in elements:
        job = cluster.wait(element, limit=90)
        assert (job.state, job.restarts) == ("COMPLETED", 1), job.output
        assert "evaluating, attempt 2" in job.output and "error: the evaluation" not in job.output, job.output
        # after a node's loss Slurm itself requeues the job
        assert element == elements[2] or "back into the queue (restart 1 of at most 20)" in job.output


def test_a_signal_that_comes_before_the_script_has_begun(trainer, cluster):
    trainer.site()
    with open(trainer.folder / "slurm" / "site.env", "a") as file:
        file.write('[ "${SLURM_RESTART_COUNT:-0}" != 0 ] || kill -USR2 $$\n')
    number = trainer.submit(SMOKE)
    cluster.wait_for(number, "back into the queue (restart 1 of at most 20)", limit=60)
    cluster.wait_for_restart(number, 1, limit=90)
    assert cluster.wait(number, limit=90).state == "COMPLETED" and len(starts(trainer)) == 1


def test_two_jobs_in_one_folder(trainer, cluster):
    """This holds also where the file system has no locks, or only locks within one node."""
    mark = trainer.folder / "runs" / "smoke" / "job"
    mark.parent.mkdir(parents=True)
    other = trainer.submit("--output=/dev/null", "--wrap", "exec sleep 600")
    cluster.wait_for_restart(other, 0, limit=60)
    mark.write_text(f"{other}\n")
    job = trainer.run(SMOKE, limit=60)
    assert job.state == "FAILED" and f"job {other} is running in {mark.parent}: wait for its end" in job.output
    assert mark.read_text() == f"{other}\n"
    cluster.cancel(other)
    cluster.wait(other, limit=60)
    number = trainer.submit(SMOKE)
    assert cluster.wait(number, limit=90).state == "COMPLETED" and mark.read_text() == f"{number}\n"
    assert [path.name for path in mark.parent.glob("job*")] == ["job"]


def test_a_lock_that_outlives_its_node(trainer, cluster):
    """Exit code 69 of the trainer is final at a first start; a restarted job tries again."""
    trainer.site(MEL_MAX_REQUEUES=2)
    number = trainer.submit(SMOKE, "--steps", 50, "--die-at", 40, "--die-with", 69)
    cluster.wait_for(number, "step 3", limit=60)
    cluster.signal(number, "USR2")
    job = cluster.wait(number, limit=150)
    assert (job.state, job.restarts) == ("FAILED", 2) and job.output.count("still holds the lock") == 2, job.output
    job = trainer.run(SMOKE, "--die-at", 40, "--die-with", 69, "--steps", 50, limit=90)
    assert job.state == "FAILED" and "training was refused" in job.output and "still holds" not in job.output


def test_a_full_shared_disk_is_no_nodes_fault(trainer, cluster):
    number = trainer.submit(SMOKE, "--steps", 100)
    cluster.wait_for(number, "step 3", limit=60)
    trainer.site(MEL_RUN_FREE_GB=10**6)
    cluster.signal(number, "USR2")
    job = cluster.wait(number, limit=150)
    assert (job.state, job.restarts) == ("FAILED", 1), job.output
    assert "GB free, expected" in job.output and "from now on" not in job.output


def test_a_fault_of_every_node_leaves_out_a_few_only(command, tmp_path):
    shell = """. slurm/lib/job.sh
    scontrol() { echo "JobState=RUNNING SuspendTime=None ReqNodeList=(null) ExcNodeList=(null) NodeList=n3"; }
    MEL_MAX_REQUEUES=20 JOB=7 ATTEMPT=4 LOG_DIR=$1/4 NODES=(n3) BAD=(n3)
    requeue"""
    for before, code in (("n0\nn1\n", 75), ("n0\nn3\nn3\nn3\n", 75), ("n0\nn1 n0\nn2\n", 1)):
        (tmp_path / "left-out").write_text(before)
        done = command("bash", "-c", shell, "-", tmp_path, limit=60)
        assert done.returncode == code, done.stderr
    assert "without n3 from now on" not in done.stdout
    assert "not requeued: n0 n1 n2 were left out before, now n3: it may not be the nodes" in done.stderr


@pytest.mark.parametrize("question, state", [("put_back", "PENDING"), ("preempted", "SIGNALING")])
def test_slurms_own_signal_ends_no_question_to_slurm(command, tmp_path, question, state):
    """The signal also kills scontrol; an unanswered query is repeated."""
    shell = """. slurm/lib/job.sh
    scontrol() {
        [[ -e $asked ]] || { touch "$asked"; kill -TERM "$BASHPID"; }
        echo "JobId=7 JobState=$state Reason=None PreemptTime=2026-01-01T00:00:00 SuspendTime=None "
    }
    JOB=7 asked=$1 state=$2
    "$3" && echo yes"""
    done = command("bash", "-c", shell, "-", tmp_path / "asked", state, question, limit=60)
    assert done.stdout == "yes\n" and (tmp_path / "asked").exists(), done.stderr
