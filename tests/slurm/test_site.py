"""What slurm/site.env can say, and what a node makes of it."""

import os
import re
import socket
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
SMOKE = "slurm/smoke.sbatch"
LIB = Path(__file__).resolve().parents[2] / "slurm" / "lib"


@pytest.fixture
def tools(tmp_path):
    """Commands of ours that come before all others: `tools(name=script)` gives the PATH."""

    def make(**scripts):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    return make


def test_apptainer(trainer, tools, tmp_path):
    """Every step runs in the image, with the project, the scratch folder and the cache mounted."""
    trainer.site(MEL_CONTAINER="/images/mel.sif", HF_HOME="/cache", MEL_MOUNTS="/more")
    said = tmp_path / "said"
    path = tools(apptainer=f'echo "$@" >>{said}; while [[ $1 != *.sif ]]; do shift; done; shift; exec "$@"')
    job = trainer.run(SMOKE, limit=60, PATH=path)
    assert job.state == "COMPLETED", job.output
    steps = said.read_text().splitlines()
    start = (
        f"exec --bind {trainer.folder},/tmp,/cache,/more --pwd {trainer.folder} /images/mel.sif {trainer.folder}/python"
    )
    assert len(steps) == 4 and all(step.startswith(start) for step in steps), steps
    what = [re.search(r"(check_node|ray_node|wait_for_ray|openrlhf_mel.train)", step)[0] for step in steps]
    assert what[0] == "check_node" and what[3] == "openrlhf_mel.train"
    assert set(what[1:3]) == {"ray_node", "wait_for_ray"}  # at the same time


def test_apptainer_with_gpus(trainer, tools, tmp_path):
    trainer.site(MEL_CONTAINER="/images/mel.sif", MEL_GPU_PROBE="echo 8")
    path = tools(
        apptainer='[[ " $* " == *" --nv "* ]] || exit 9; while [[ $1 != *.sif ]]; do shift; done; shift; exec "$@"'
    )
    job = trainer.run("--gpus-per-node=8", SMOKE, limit=60, PATH=path)
    assert job.state == "COMPLETED", job.output


def test_pyxis(trainer, tools, tmp_path):
    """srun's own flags, which this cluster's srun lacks: they are checked and taken out."""
    trainer.site(MEL_CONTAINER="registry#team/mel:1", MEL_TMP="/tmp")
    said = tmp_path / "said"
    path = tools(
        srun=f"""kept=()
for word; do
    if [[ $word == --*container* ]]; then printf '%s ' "$word" >>{said}; else kept+=("$word"); fi
done
echo >>{said}
exec {os.path.realpath("/usr/bin/srun")} "${{kept[@]}}\""""
    )
    job = trainer.run(SMOKE, limit=60, PATH=path)
    assert job.state == "COMPLETED", job.output
    here = trainer.folder
    expected = (
        f"--container-image=registry#team/mel:1 --container-workdir={here} --no-container-entrypoint "
        f"--container-mounts={here}:{here},/tmp:/tmp "
    )
    assert said.read_text().splitlines() == [expected] * 4


def test_a_site_file_that_is_a_shell_script(trainer):
    """Modules and the like fail under -e and -u; what is set there reaches every step."""
    trainer.site()
    with open(trainer.folder / "slurm" / "site.env", "a") as file:
        file.write('false\n[ "$not_set" ]\nMEL_GPU_PROBE="echo $not_set 8"\n')
    job = trainer.run("--gpus-per-node=8", SMOKE, limit=60)
    assert job.state == "COMPLETED", job.output


def test_the_network_interface(trainer):
    trainer.site(MEL_INTERFACE="lo")
    job = trainer.run(SMOKE, limit=60)
    assert job.state == "COMPLETED" and re.search(r"the head on n\d, 127.0.0.1:\d+", job.output), job.output
    trainer.site(MEL_INTERFACE="ib7")
    job = trainer.run(SMOKE, "--train.seed=2", limit=60)
    assert job.state == "FAILED" and re.search(r"node n\d: MEL_INTERFACE=ib7: no such interface", job.output), (
        job.output
    )


@pytest.fixture
def node(monkeypatch):
    """slurm/lib/this_node.py"""
    monkeypatch.syspath_prepend(LIB)
    import this_node

    monkeypatch.setattr(this_node, "NAME", "gpu7")
    return this_node


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [("10.1.2.3", "10.1.2.3"), ("127.0.1.1", "192.168.0.9"), (OSError(), "192.168.0.9")],
    ids=["known", "the machine itself", "unknown"],
)
def test_the_address_that_others_reach(node, monkeypatch, resolved, expected):
    """Debian's /etc/hosts gives a machine's own name as 127.0.1.1."""

    def resolve(name):
        assert name == "gpu7.cluster"
        if isinstance(resolved, OSError):
            raise resolved
        return resolved

    interfaces = {"lo": ["127.0.0.1"], "eth0": ["192.168.0.9"]}
    addresses = {
        name: [type("Address", (), {"family": socket.AF_INET, "address": a}) for a in found]
        for name, found in interfaces.items()
    }
    monkeypatch.setattr(node.socket, "gethostbyname", resolve)
    monkeypatch.setattr(node.psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setenv("MEL_NODE_ADDRESSES", "gpu6=gpu6.cluster\ngpu7=gpu7.cluster")
    assert node.address() == expected


def test_the_memory_and_cpus_of_the_job(node, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1000")
    assert node.cpus() == 4 and node.memory_bytes() == 4000 * 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "9000")
    assert node.memory_bytes() == 9000 * 2**20


def test_ports_are_the_jobs_own_and_free(node, monkeypatch):
    import check_node

    first = check_node.free_ports("127.0.0.1", 1000)
    assert first % 8 == 0 and 10_000 <= first < 32_000  # below Linux's ephemeral ports
    assert check_node.free_ports("127.0.0.1", 1001) != first
    with socket.create_server(("127.0.0.1", first + 1)):
        assert check_node.free_ports("127.0.0.1", 1000) != first


def test_the_temporary_folder(node, monkeypatch, tmp_path):
    monkeypatch.setenv("MEL_LOG_DIR", str(tmp_path))
    import ray_node

    monkeypatch.setenv("MEL_TMP", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first = ray_node.make_folder()
    assert first == tmp_path / "mel-77" and first.stat().st_mode & 0o777 == 0o700
    assert ray_node.make_folder() == tmp_path / "mel-77-1"  # another node that shares the disk
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    (first / "of the killed attempt").touch()
    assert ray_node.make_folder() == first and [path.name for path in first.iterdir()] == ["attempt"]
