"""An unfit node, or a Ray that does not start: the job ends within its deadline and names the node and the cause."""

import errno
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SMOKE = "slurm/smoke.sbatch"


@pytest.fixture
def script(tmp_path):
    """An executable shell script."""

    def write(text):
        path = tmp_path / "script"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def failed(project, *arguments, limit, says):
    job = project.run(*arguments, limit=limit)
    assert job.state == "FAILED" and says in job.output, f"{job.state}: {job.output}"
    return job


def test_a_gpu_that_does_not_work(project):
    """This cluster's GPUs are links to /dev/null, and the default probe tries to compute on them."""
    failed(project, "--gpus-per-node=8", SMOKE, limit=60, says="error: node n0: 8 GPUs were asked for, 0 found")


def test_the_node_that_lacks_a_gpu_is_named(trainer, script):
    trainer.site(MEL_GPU_PROBE=script("[ $SLURMD_NODENAME = n1 ] && echo 7 || echo 8"))
    two = ("--nodes=2", "--nodelist=n0,n1", "--gpus-per-node=8", SMOKE)
    job = failed(trainer, *two, limit=90, says="error: node n1: 8 GPUs were asked for, 7 found")
    assert "node n0" not in job.output and not (trainer.folder / "runs" / "smoke" / "starts.jsonl").exists()
    trainer.site(MEL_GPU_PROBE=script("echo 'Xid 79: fell off the bus' >&2; exit 1"))
    failed(trainer, *two, limit=90, says="error: node n1: a GPU does not work: Xid 79: fell off the bus")


def test_gpus_are_counted_within_what_is_left_of_the_check(monkeypatch, script):
    from slurm.lib import check_node

    monkeypatch.setattr(check_node.this_node, "GPUS", 8)
    monkeypatch.setenv("MEL_GPU_PROBE", str(script("exec sleep 100")))
    with pytest.raises(check_node.Unfit, match=r"could not be counted within 2 s \(MEL_CHECK_S\)"):
        check_node.check_gpus(time.monotonic() + 1.9)


@pytest.mark.parametrize(("number", "kind"), [(errno.EDQUOT, "Shared"), (errno.ESTALE, "Unfit")])
def test_whose_fault_a_run_folder_is(monkeypatch, tmp_path, number, kind):
    """A full folder is full for every node; a stale mount is this node's fault."""
    from slurm.lib import check_node

    def refuse(**_):
        raise OSError(number, "refused")

    monkeypatch.setattr(check_node.tempfile, "TemporaryFile", refuse)
    with pytest.raises(getattr(check_node, kind), match="cannot be written: refused"):
        check_node.check_room(str(tmp_path), "MEL_RUN_FREE_GB", shared=True)


def test_what_a_compile_lacks_is_told_before_anything_starts(trainer, script, tmp_path):
    """Reported for every node by name; CUDA's needs only for jobs that request GPUs."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text("cuda = '13.0'\n")  # never imported, since the trainer is a stand-in
    toolkit = tmp_path / "cuda" / "bin" / "nvcc"
    toolkit.parent.mkdir(parents=True)
    toolkit.symlink_to(script("echo 'Cuda compilation tools, release 12.4, V12.4.131'"))
    trainer.site(PYTHONPATH=tmp_path, MEL_GPU_PROBE="echo 8", CUDA_HOME=toolkit.parents[1])
    two = ("--nodes=2", "--nodelist=n0,n1", "--gpus-per-node=8", SMOKE)
    job = failed(trainer, *two, limit=90, says=f"{toolkit} is of CUDA 12.4, but torch was built for 13.0")
    for node in ("n0", "n1"):
        assert re.search(f"error: node {node}: .*no driver of NVIDIA's", job.output), job.output
    assert "starting Ray" not in job.output and not (trainer.folder / "runs" / "smoke" / "starts.jsonl").exists()
    assert trainer.run(SMOKE, limit=90).state == "COMPLETED"


def test_a_warning_of_a_node_is_told(trainer):
    """A warning does not stop the job, and the node's later answer counts."""
    trainer.stand_in(**{"slurm.lib.check_node": "warns.py"})
    job = trainer.run("--nodes=2", "--nodelist=n0,n1", SMOKE, limit=90)
    assert job.state == "COMPLETED", job.output
    for node in ("n0", "n1"):
        assert (
            f"warning: node {node}: InfiniBand (mlx5_0) lacks libnowhere.so.1: between nodes NCCL will fall back to TCP"
            in job.output
        )


def test_a_job_that_got_no_gpus(trainer):
    says = "GPUs were asked for, but Slurm has given none on n0: ask with sbatch --gpus-per-node=TYPE:N"
    failed(trainer, "--nodelist=n0", SMOKE, "--mel.runtime=cuda", limit=60, says=says)


def test_two_nodes_with_one_address(trainer):
    trainer.site(MEL_INTERFACE="lo")
    says = "error: nodes n0 and n1: both are 127.0.0.1; set MEL_INTERFACE"
    failed(trainer, "--nodes=2", "--nodelist=n0,n1", SMOKE, limit=90, says=says)


def test_what_preflight_refuses_costs_no_ray(trainer):
    """The trainer would accept the configuration: only preflight knows the card's memory."""
    trainer.stand_in(**{"openrlhf_mel.preflight": "preflight.py"})
    trainer.site(MEL_GPU="a100", MEL_GPU_MEMORY_GB=40, MEL_GPU_PROBE="echo 8", MEL_RUN_FREE_GB=1)
    script = "slurm/qwen3-14b.sbatch"
    job = failed(trainer, script, limit=90, says="preflight refused slurm/configs/train/qwen3-14b.yaml, see above")
    assert "(40 GB a100)" in job.output and "starting Ray" not in job.output
    trainer.stand_in(**{"openrlhf_mel.preflight": "dies.py"})
    failed(trainer, script, limit=90, says="preflight could not run: it ended with exit code 1")
    assert trainer.run(script, limit=90, MEL_SKIP_PREFLIGHT="1").state == "COMPLETED"


@pytest.mark.ray
def test_ray_with_gpus_over_two_nodes(trainer):
    trainer.stand_in(**{"slurm.lib.ray_node": "itself.py", "slurm.lib.wait_for_ray": "itself.py"})
    trainer.site(MEL_GPU_PROBE="echo 4")
    job = trainer.run("--nodes=2", "--gpus-per-node=4", SMOKE, limit=300)
    assert job.state == "COMPLETED" and "Ray: 2 of 2 nodes, 8 GPUs" in job.output, job.output


def test_a_disk_that_is_too_small(project):
    project.site(MEL_RUN_FREE_GB=10**6)
    failed(project, SMOKE, limit=90, says=f"{project.folder}/runs/smoke: ")
    project.site(MEL_MIN_FREE_GB=10**6, MEL_RUN_FREE_GB=1)
    failed(project, SMOKE, limit=90, says="GB free, expected 1000000 or more (MEL_MIN_FREE_GB)")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a full file system")
def test_a_full_temporary_folder(project):
    full = tempfile.mkdtemp(prefix="full-")  # `tmp_path` is too long for Ray's sockets
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", full], capture_output=True, text=True)
    if mounted.returncode:
        os.rmdir(full)
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        Path(full, "file").write_bytes(b"0" * 2**16)
        project.site(MEL_TMP=full, MEL_MIN_FREE_GB=0)
        failed(project, SMOKE, limit=90, says=f"error: node n0: {full}: cannot be written: No space left on device")
    finally:
        subprocess.run(["umount", full], check=True)
        os.rmdir(full)


def test_a_temporary_folder_too_deep_for_rays_sockets(project, tmp_path):
    deep = tmp_path / "a-folder-with-quite-a-long-name"
    deep.mkdir()
    project.site(MEL_TMP=deep)
    failed(project, SMOKE, limit=90, says="too long for Ray's sockets")


def test_a_node_without_the_project(trainer):
    """The node does not read what the batch script wrote."""
    trainer.site(MEL_CHECK_S=24)
    trainer.stand_in(**{"slurm.lib.check_node": "elsewhere_on_n1.py"})
    failed(trainer, "--nodes=2", "--nodelist=n0,n1", SMOKE, limit=60, says="error: node n1: does not see")


def test_a_node_that_does_not_answer(trainer):
    trainer.site(MEL_CHECK_S=15)
    trainer.stand_in(**{"slurm.lib.check_node": "hang_on_n1.py"})
    job = failed(
        trainer, "--nodes=2", "--nodelist=n0,n1", SMOKE, limit=90, says="error: node n1: no answer within 15 s"
    )
    assert "node n0" not in job.output


def test_python_that_is_not_there(project):
    project.site(MEL_PYTHON="/nowhere/python")
    failed(project, SMOKE, limit=90, says="/nowhere/python: No such file or directory")


def test_an_srun_that_fails_is_heard(trainer, tmp_path):
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\necho 'srun: error: Unable to create step: Invalid account' >&2\nexit 1\n")
    srun.chmod(0o755)
    job = trainer.run(SMOKE, limit=90, PATH=f"{srun.parent}:{os.environ['PATH']}")
    assert job.state == "FAILED" and "Invalid account" in job.output and "no answer within" not in job.output


@pytest.mark.slow
def test_a_head_that_never_comes(project):
    project.site(MEL_RAY_S=3)
    project.stand_in(**{"slurm.lib.ray_node": "hang.py"})
    job = failed(project, SMOKE, limit=60, says="error: Ray did not start on all of n0")
    assert "error: Ray's head did not answer at 127.0.1.10:" in job.output


def test_a_ray_that_dies_at_once(project):
    """The job ends before the deadline."""
    project.site(MEL_RAY_S=200)
    project.stand_in(**{"slurm.lib.ray_node": "dies.py"})
    job = failed(project, SMOKE, limit=90, says="error: a node's Ray has ended")
    assert "Ray did not start on all of n0" in job.output


@pytest.mark.slow
@pytest.mark.ray
def test_a_second_node_that_never_joins(project):
    project.site(MEL_RAY_S=45)
    project.stand_in(**{"slurm.lib.ray_node": "hang_on_n1.py"})
    job = failed(
        project, "--nodes=2", "--nodelist=n0,n1", SMOKE, limit=240, says="error: n1: not in the Ray cluster after 45 s"
    )
    assert "Ray: 1 of 1 nodes" in job.output


def test_a_site_file_that_is_not_there(project):
    job = project.run(SMOKE, limit=60, MEL_SITE="/nowhere/site.env")
    assert job.state == "FAILED" and "MEL_SITE=/nowhere/site.env: no such file" in job.output


def test_submitted_from_elsewhere(project, tmp_path):
    (tmp_path / "slurm" / "logs").mkdir(parents=True)
    number = project.cluster.submit(project.folder / SMOKE, cwd=tmp_path)
    job = project.cluster.wait(number, limit=60)
    assert job.state == "FAILED" and f"submit from the project's root, not from {tmp_path}" in job.output
