"""Runs Ray on this node until it is told to end: python -m slurm.lib.ray_node head | worker.

Everything that two jobs on one node could share has a value of its own: ports (the head's two by the job's number, all
others by the kernel), the temporary folder, CPUs, GPUs and memory from the allocation.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from slurm.lib import this_node

_LOGS = Path(os.environ["MEL_LOG_DIR"])
_END = _LOGS / "ray-end"  # written by the batch script
_PATIENCE_S = 15  # for Ray to end by itself: less than Slurm's usual KillWait
_LOG_BYTES = 2**20


def command(role: str, folder: Path) -> list[str]:
    """`ray start` for this node. Without GPUs Ray gets slots that the CPU runtime uses instead."""
    head = os.environ["MEL_RAY_HEAD"]
    port = int(head.rpartition(":")[2])
    options = {
        "node-ip-address": this_node.address(),
        "num-cpus": this_node.cpus(),
        "num-gpus": this_node.GPUS or int(os.environ.get("MEL_CPU_SLOTS") or 1),
        "temp-dir": folder,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-agent-listen-port": 0,
        "log-style": "record",
        "log-color": "false",
    }
    if memory := this_node.memory_bytes():
        options["object-store-memory"] = int(memory * 0.3)  # Ray's usual share, but of the job's memory
    if role == "head":
        options |= {"port": port, "ray-client-server-port": port + 1, "include-dashboard": "false"}
    else:
        options |= {"address": head}
    flags = [f"--{name}={value}" for name, value in options.items()]
    head_flag = ["--head"] if role == "head" else []
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--disable-usage-stats",
        *head_flag,
        *flags,
    ]


def make_folder() -> Path:
    """A private folder on the node's own disk, with a short name for Ray's sockets; removes killed attempts' folders."""
    base, job = Path(os.environ["MEL_TMP"]), os.environ["SLURM_JOB_ID"]
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
    for suffix in ("", *(f"-{i}" for i in range(1, 100))):  # for nodes that share a disk
        folder = base / f"mel-{job}{suffix}"
        mark = folder / "attempt"
        if mark.exists() and mark.stat().st_uid == os.getuid() and mark.read_text() != attempt:
            shutil.rmtree(folder)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        mark.write_text(attempt)
        return folder
    raise SystemExit(f"{base}: holds a hundred folders mel-{job}*; remove them")


def hold(ray: subprocess.Popen[bytes]) -> int:
    """Wait until Ray has ended or is told to end. Returns its exit code, or 0 when it was told to end."""
    told = False

    def end(*_: object) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, end)
    while True:
        try:
            code = ray.wait(1)
            return 0 if told else code
        except subprocess.TimeoutExpired:
            if not (told or _END.exists()):
                continue
        told = True
        ray.terminate()
        try:
            ray.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            ray.kill()


def keep_logs(folder: Path) -> None:
    """Keep the ends of Ray's own non-empty logs."""
    target = _LOGS / f"ray-{this_node.NAME}"
    for log in (folder / "session_latest" / "logs").glob("*.*"):
        if log.is_file() and log.stat().st_size:
            target.mkdir(exist_ok=True)
            with open(log, "rb") as file:
                file.seek(max(0, log.stat().st_size - _LOG_BYTES))
                (target / log.name).write_bytes(file.read())


def main(role: str) -> int:
    """Ray's exit code, or 0 when it was told to end."""
    folder = make_folder()
    try:
        with open(_LOGS / f"ray-{this_node.NAME}.log", "ab") as log:
            environment = os.environ | {"PATH": this_node.path()}  # Ray's workers inherit it
            ray = subprocess.Popen(command(role, folder), env=environment, stdout=log, stderr=log, process_group=0)
            try:
                return hold(ray)
            finally:  # Ray's agents outlive it if nobody has reaped its raylet
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(ray.pid, signal.SIGKILL)
    finally:
        keep_logs(folder)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
