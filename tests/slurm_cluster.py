"""A real Slurm on this machine for a test session: virtual nodes with eight fake GPUs each; needs no root.

It works without systemd, munge and cgroups through `auth/none`, `proctrack/linuxproc`, one slurmd per virtual node with
its own address and port, `config_overrides` (the nodes claim more than this machine has), and GPUs that are links to
/dev/null.
"""

from __future__ import annotations

import getpass
import os
import random
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

COMMANDS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
GPUS = 8
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"}
_CONFIG = """
ClusterName=mel
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
MessageTimeout=60
TCPTimeout=30
BatchStartTimeout=120
CredType=cred/none
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=1,bf_interval=1
GresTypes=gpu
DefMemPerCPU=1000
ReturnToService=2
KillWait={kill_wait}
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
FirstJobId={first_job}
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=grace Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}
"""


def missing() -> list[str]:
    """Return Slurm's commands that this machine lacks."""
    return [name for name in COMMANDS if shutil.which(name) is None]


@dataclass(frozen=True)
class Job:
    """The output of `scontrol show job`.

    Attributes:
        fields: by Slurm's names.
    """

    fields: dict[str, str]

    @property
    def state(self) -> str:
        return self.fields["JobState"]

    @property
    def exit_code(self) -> int:
        return int(self.fields["ExitCode"].split(":")[0])

    @property
    def restarts(self) -> int:
        return int(self.fields["Restarts"])

    @property
    def output(self) -> str:
        """The batch script's output; empty if there is none yet."""
        path = Path(self.fields["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""


@dataclass
class Cluster:
    """A Slurm that runs inside a `with` block.

    Attributes:
        folder: holds everything that Slurm writes; its path must be short.
        environment: environment of every command.
    """

    folder: Path
    nodes: int = 8
    kill_wait: int = 20
    grace: int = 15
    environment: dict[str, str] = field(default_factory=dict)
    _daemons: list[subprocess.Popen] = field(default_factory=list)

    def __enter__(self) -> Cluster:
        ours = ("SLURM_", "SBATCH_", "MEL_", "TORCH", "TRITON", "VLLM", "FLASHINFER")  # torch sets some itself
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        self.environment["SLURM_CONF"] = str(self.folder / "slurm.conf")
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel remaining jobs, then end the daemons that this object started, and no others."""
        if self._daemons:
            self._run("scancel", "--state=PENDING", f"--user={getpass.getuser()}", check=False)
            self._run("scancel", f"--user={getpass.getuser()}", check=False)
            self._wait(lambda: not self._run("squeue", "-h", check=False), self.kill_wait + 5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def submit(self, *arguments: object, cwd: Path, **environment: str) -> str:
        """Submit a job with sbatch; return its id."""
        found = subprocess.run(
            ["sbatch", "--parsable", *map(str, arguments)], cwd=cwd, env=self.environment | environment,
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return found.stdout.strip()

    def job(self, number: str) -> Job:
        """Return the job's current state."""
        text = self._run("scontrol", "--oneliner", "show", "job", number)
        return Job(dict(re.findall(r"(\w[\w/:]*)=(\S*)", text.splitlines()[0])))

    def wait(self, number: str, limit: float) -> Job:
        """Wait for the job's end; after `limit` seconds fail with its output."""
        deadline = time.monotonic() + limit
        while (job := self.job(number)).state not in _ENDED:
            assert time.monotonic() < deadline, f"after {limit} s {self._story(number)}"
            time.sleep(0.3)
        return job

    def wait_for(self, number: str, text: str, limit: float) -> Job:
        """Wait until the job's output contains `text`."""
        deadline = time.monotonic() + limit
        while text not in (job := self.job(number)).output:
            assert job.state not in _ENDED, f"ended without {text!r}: {self._story(number)}"
            assert time.monotonic() < deadline, f"no {text!r} after {limit} s: {self._story(number)}"
            time.sleep(0.2)
        return job

    def wait_for_restart(self, number: str, restarts: int, limit: float) -> Job:
        """Wait until a requeued job runs again: about 6 seconds, see AuthInfo (Slurm's default is two minutes).

        Updating its StartTime would be faster, but then the old attempt's last output may count as the new one's.
        """
        deadline = time.monotonic() + limit
        while (job := self.job(number)).state != "RUNNING" or job.restarts < restarts:
            assert time.monotonic() < deadline, f"after {limit} s {self._story(number)}"
            time.sleep(0.3)
        return job

    def queue(self) -> list[str]:
        """Return the ids of all running and waiting jobs."""
        return self._run("squeue", "-h", "-o", "%i").split()

    def nodes_of(self, number: str) -> list[str]:
        """Return the names of a job's nodes."""
        return self._run("scontrol", "show", "hostnames", self.job(number).fields["NodeList"]).split()

    def down(self, node: str) -> None:
        """Make Slurm believe for a moment that a node is lost. Its jobs start again when nothing of them is left.

        All nodes are this machine: two attempts would share Ray's ports, and a node on which the old one has not ended
        refuses the new one ("Duplicate jobid"), upon which Slurm holds the job.
        """
        jobs = self._run("squeue", "-h", "-o", "%A", f"--nodelist={node}").split()
        steps = [p for p in psutil.process_iter(["cmdline"]) if _job_of_step(p.info["cmdline"] or []) in jobs]
        self._run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        self._run("scontrol", "hold", *jobs)
        left = psutil.wait_procs(steps, timeout=60)[1]
        assert steps and not left, (steps, left)
        time.sleep(7)  # until the node has forgotten the job, see AuthInfo
        self._run("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # it may already be back
        self._run("scontrol", "release", *jobs)

    def cancel(self, number: str) -> None:
        """Cancel a job if it still runs or waits."""
        self._run("scancel", number, check=False)

    def requeue(self, number: str) -> None:
        """Requeue a job at once, without warning."""
        self._run("scontrol", "requeue", number)

    def signal(self, number: str, name: str) -> None:
        """Signal only the batch script, as `--signal=B:...` does."""
        self._run("scancel", "--batch", f"--signal={name}", number)

    def _start(self) -> None:
        for name in ("state", "dev", *(f"spool.n{i}" for i in range(self.nodes))):
            (self.folder / name).mkdir(parents=True)
        for i in range(GPUS):
            (self.folder / "dev" / f"nvidia{i}").symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text(f"Name=gpu Type=h100 File={self.folder}/dev/nvidia[0-{GPUS - 1}]\n")
        host = socket.gethostname().split(".")[0]
        first, *others = _free_ports(self.nodes + 1)
        lines = [
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.1.{10 + i} Port={port} CPUs=64 Boards=1 SocketsPerBoard=2 "
            f"CoresPerSocket=32 ThreadsPerCore=1 RealMemory=900000 Gres=gpu:h100:{GPUS} State=UNKNOWN"
            for i, port in enumerate(others)
        ]
        config = _CONFIG.format(
            host=host, user=getpass.getuser(), port=first, folder=self.folder, kill_wait=self.kill_wait,
            grace=self.grace, first_job=random.randrange(1000, 60000), nodes="\n".join(lines),
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(config)
        self._daemon("slurmctld", "-D")
        for i in range(self.nodes):
            self._daemon("slurmd", "-D", "-N", f"n{i}")
        idle = self._wait(lambda: len(self._run("sinfo", "-h", "-N", "-p", "low", "-t", "idle", check=False).split("\n")) == self.nodes, 90)  # fmt: skip
        assert idle, self._run("sinfo", "-R", check=False) + self._logs()

    def _daemon(self, *command: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        # A new session, so that Ctrl-C in the terminal reaches only the tests.
        self._daemons.append(subprocess.Popen(command, env=self.environment, start_new_session=True, **quiet))

    def _run(self, *command: str, check: bool = True) -> str:
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        assert not check or found.returncode == 0, f"{' '.join(command)}: {found.stderr}"
        return found.stdout.strip()

    def _story(self, number: str) -> str:
        """Collect everything about a job's state, the least useful first: a long message is cut in its middle."""
        job = self.job(number)
        nodes = self._run("sinfo", "-N", "-h", "-o", "%N %T %E %H", check=False)
        queue = self._run("squeue", "-h", "-o", "%i %P %T %r %S %N %x", check=False)
        about = [
            line for line in (self.folder / "slurmctld.log").read_text(errors="replace").splitlines() if number in line
        ]
        fields = " ".join(f"{key}={value}" for key, value in job.fields.items())
        return "\n".join([f"job {number} is {job.state}:", job.output[-4000:], nodes, queue, *about[-30:], fields])

    def _logs(self) -> str:
        return "".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))

    @staticmethod
    def _wait(done, limit: float) -> bool:
        deadline = time.monotonic() + limit
        while not (found := done()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


def _job_of_step(cmdline: list[str]) -> str | None:
    """Return the id of the job to which a daemon of Slurm's steps belongs; None for other processes."""
    found = re.match(r"slurmstepd: \[(\d+)\.", " ".join(cmdline))
    return found and found[1]


def _free_ports(count: int) -> list[int]:
    """Return free ports: above those of the jobs (check_node.py) and below the kernel's ephemeral range.

    All are held until the last is found, so none is returned twice.
    """
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(range(32_000, 32_768), 768):
            with suppress(OSError):
                held.enter_context(socket.create_server(("", port)))
                found.append(port)
            if len(found) == count:
                break
    return found
