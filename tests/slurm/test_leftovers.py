"""Jobs submitted from inside another job inherit its variables; the new job's steps must see only their own."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SMOKE = "slurm/smoke.sbatch"


def start(project, run="smoke"):
    """Return the trainer's last start in a run."""
    return json.loads((project.folder / "runs" / run / "starts.jsonl").read_text().splitlines()[-1])


def environment(project, run="smoke"):
    """Return Slurm's variables in the trainer's step."""
    return {k: v for k, v in start(project, run)["environment"].items() if k.startswith(("SLURM", "SRUN"))}


# Variables that once reached the steps and ended the job, pinned it, renamed it or changed its size.
LEFTOVERS = {
    "memory": {"SLURM_MEM_PER_CPU": "4000"},
    "gpu_memory": {"SLURM_MEM_PER_GPU": "4000"},
    "gpus": {"SLURM_GPUS": "1"},
    "gpus_per_node": {"SLURM_GPUS_PER_NODE": "9"},
    "gpus_on_node": {"SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_GPUS": "0,1,2,3,4,5,6,7"},
    "restarts": {"SLURM_RESTART_COUNT": "25"},
    "binding": {"SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x1"},
    "array": {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "9"},
    "srun": {"SRUN_CPUS_PER_TASK": "64", "SRUN_EXPORT_ENV": "NONE"},
    "step": {"SLURM_STEP_ID": "3", "SLURM_STEP_GRES": "gpu:9", "SLURM_DISTRIBUTION": "arbitrary", "SLURM_EXACT": "1"},
    "threads": {"SLURM_THREADS_PER_CORE": "2", "SLURM_NTASKS_PER_CORE": "2"},
    "het": {"SLURM_HET_SIZE": "2", "SLURM_HET_JOB_ID_HET_GROUP_0": "5"},
    "cluster": {"SLURM_WORKING_CLUSTER": "other:127.0.0.1:1:9728:109"},
    "time": {"SLURM_TIMELIMIT": "soon", "SLURM_WAIT": "1", "SLURM_TIME_FORMAT": "relative"},
    "scratch": {"SLURM_TMPDIR": "/dev/shm"},
}  # fmt: skip


def test_what_another_job_has_left(trainer, cluster):
    numbers = {}
    for name, left in LEFTOVERS.items():
        numbers[name] = trainer.submit(SMOKE, "--mel.run_dir", f"runs/{name}", **left)
    for name, left in LEFTOVERS.items():
        job = cluster.wait(numbers[name], limit=200)
        assert job.state == "COMPLETED", f"{name}: {job.output}"
        assert f"job {numbers[name]}, attempt 1, on " in job.output
        found = environment(trainer, name)
        assert not left.items() & found.items() and "cpu binding" not in job.output, name
        assert found["SLURM_JOB_ID"] == numbers[name] and found["SLURM_MEM_PER_NODE"] == "12288"
        assert start(trainer, name)["environment"]["MEL_TMP"] != "/dev/shm"
        assert (trainer.folder / "runs" / name / "job").read_text() == f"{numbers[name]}\n"
        assert (trainer.folder / "slurm" / "logs" / f"smoke-{numbers[name]}" / "0" / "nodes").exists()


INSIDE = ("--output=/dev/null", "--cpus-per-task=2", "--mem-per-cpu=500")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (INSIDE, ""),
        ((*INSIDE, "--gpus=1"), ""),
        (INSIDE, "srun --cpu-bind=quiet,mask_cpu:0x1 --ntasks=1 "),
        (
            (*INSIDE, "--hint=nomultithread", "--ntasks=4", "--distribution=cyclic", "--export=ALL,SLURM_TMPDIR=/tmp"),
            "",
        ),
    ],
    ids=["memory", "GPUs", "a step's binding", "hint, tasks, distribution"],
)
def test_submitted_by_a_real_job(trainer, cluster, flags, words):
    """Submitted from the outer job's batch script, or from one of its steps."""
    trainer.site()
    outer = trainer.submit(*flags, "--wrap", f"{words}sbatch --parsable {SMOKE} >inner")
    assert cluster.wait(outer, limit=60).state == "COMPLETED"
    number = (trainer.folder / "inner").read_text().strip()
    trainer.jobs.append(number)
    job = cluster.wait(number, limit=90)
    assert job.state == "COMPLETED", job.output
    found = environment(trainer)
    assert found["SLURM_JOB_ID"] == number and found["SLURM_MEM_PER_NODE"] == "12288"
    foreign = ("SLURM_MEM_PER_CPU", "SLURM_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_HINT", "SLURM_TMPDIR")
    assert not found.keys() & set(foreign) and "0x1" not in found.get("SLURM_CPU_BIND_LIST", "")
    assert found["SLURM_NTASKS"] == "1" and found["SLURM_CPUS_PER_TASK"] == "2"


def test_an_experiment_submitted_by_a_job(trainer, cluster):
    """sbatch itself reads SLURM_HINT and SLURM_HOSTFILE: an experiment does not inherit these settings."""
    trainer.site()
    flags = (*INSIDE, "--export=ALL,SLURM_HINT=nonsense,SLURM_HOSTFILE=/nowhere")
    outer = trainer.submit(*flags, "--wrap", "slurm/submit_experiment.sh smoke --skip-preflight >inner")
    assert cluster.wait(outer, limit=60).state == "COMPLETED"
    ids = [line.split()[2] for line in (trainer.folder / "inner").read_text().splitlines() if " job " in line]
    trainer.jobs.extend(ids)
    job = cluster.wait(ids[0], limit=90)
    assert job.state == "COMPLETED" and len(ids) == 2, job.output


def test_an_array_that_submits(trainer, cluster):
    """The training is requeued; the finished array is not."""
    trainer.site()
    wrap = f"echo ran >>ran; sbatch --parsable {SMOKE} --steps 100 >inner"
    outer = trainer.submit("--array=4", *INSIDE, "--wrap", wrap)
    assert cluster.wait(f"{outer}_4", limit=60).state == "COMPLETED"
    number = (trainer.folder / "inner").read_text().strip()
    trainer.jobs.append(number)
    cluster.wait_for(number, "step 3", limit=60)
    cluster.signal(number, "USR2")
    cluster.wait_for_restart(number, 1, limit=90)
    job = cluster.wait(number, limit=90)
    assert (job.state, job.restarts) == ("COMPLETED", 1), job.output
    assert f"job {number}, attempt 2, on " in job.output
    assert environment(trainer)["SLURM_RESTART_COUNT"] == "1"
    before = cluster.job(f"{outer}_4")
    assert (before.state, before.restarts) == ("COMPLETED", 0)
    assert (trainer.folder / "ran").read_text() == "ran\n"


def test_what_is_the_jobs_own_stays(trainer, cluster, tmp_path):
    """These stay: the requested memory, CPUs and GPUs, and the place of Slurm's configuration."""
    elsewhere = tmp_path / "slurm.conf"
    for name in ("slurm.conf", "gres.conf"):
        (tmp_path / name).write_text((cluster.folder / name).read_text())
    trainer.site(MEL_GPU_PROBE="echo 2")
    script = trainer.folder / "slurm" / "by-cpu.sbatch"
    text = (trainer.folder / SMOKE).read_text()
    script.write_text(text.replace("--mem=12G", "--mem-per-cpu=1500"))
    cases = {  # flags, inherited variables, what the steps see; slurmd sets its own SLURM_CONF
        "conf": ((SMOKE,), {"SLURM_CONF": str(elsewhere)}, {"SLURM_CONF": cluster.environment["SLURM_CONF"], "SLURM_MEM_PER_NODE": "12288"}),
        "whole": (("--mem=0", SMOKE), {"SLURM_MEM_PER_NODE": "5"}, {"SLURM_MEM_PER_NODE": None, "SLURM_MEM_PER_CPU": None}),
        "by_cpu": ((script,), {"SLURM_MEM_PER_NODE": "5"}, {"SLURM_MEM_PER_CPU": "1500", "SLURM_MEM_PER_NODE": None}),
        "gpus": (("--gpus-per-node=2", SMOKE), {"SLURM_GPUS_ON_NODE": "7"}, {"SLURM_GPUS_ON_NODE": "2"}),
        "gres": (("--gpus-per-node=0", "--gres=gpu:h100:2", SMOKE), {"SLURM_GPUS": "7"}, {"SLURM_GPUS_ON_NODE": "2"}),
        "threads": (("--hint=nomultithread", SMOKE), {"SLURM_THREADS_PER_CORE": "2"}, {"SLURM_THREADS_PER_CORE": "1"}),
        "cpus": (("--cpus-per-task=3", SMOKE), {"SLURM_CPUS_PER_TASK": "9"}, {"SLURM_CPUS_PER_TASK": "3"}),
    }  # fmt: skip
    numbers = {
        name: trainer.submit(*arguments, "--mel.run_dir", f"runs/{name}", **left)
        for name, (arguments, left, _) in cases.items()
    }
    for name, (_, _, expected) in cases.items():
        job = cluster.wait(numbers[name], limit=200)
        assert job.state == "COMPLETED", f"{name}: {job.output}"
        found = environment(trainer, name)
        assert {variable: found.get(variable) for variable in expected} == expected, name
    for name in ("gpus", "gres"):
        assert len(start(trainer, name)["environment"]["CUDA_VISIBLE_DEVICES"].split(",")) == 2
