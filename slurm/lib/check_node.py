"""Is this node fit to run on? Prints a line: NAME ok ADDRESS PORT VERSIONS, NAME bad REASON, or NAME shared REASON.

Lines `warning NAME TEXT` may come before it. check_nodes (nodes.sh) runs it on every node of the allocation before
anything else, and reports its results.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from openrlhf_mel.settings import vllm_build
from slurm.lib import check_tools, this_node

_PACKAGES = ("openrlhf", "torch", "ray", "deepspeed", "transformers")
_FIRST, _BLOCK, _LAST = 10_000, 8, 32_000  # below Linux's ephemeral ports
# Ray creates sockets below a session's folder in it; their whole path may have 107 characters.
_LONGEST_TMP = 107 - len("/mel-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
# Errors that other nodes would see as well. Not EIO, ESTALE and the like, which come from this node's mount.
_SHARED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
# That torch sees a GPU is not enough: one that fell off the bus, or that another job uses, fails in use.
_PROBE = """
import torch
for i in range(torch.cuda.device_count()):
    torch.ones(8, device=f"cuda:{i}").sum().item()
print(torch.cuda.device_count())
"""


class Unfit(Exception):
    """The node is unfit; the message says why."""


class Shared(Exception):
    """Something that nodes share fails the check: another node would not help."""


def check_shared_folder() -> None:
    """The node sees the mark that the batch script has written on the shared disk."""
    path = Path(os.environ["MEL_LOG_DIR"], "mark")
    deadline = time.monotonic() + float(os.environ["MEL_CHECK_S"]) / 4  # NFS takes a while to show a new file
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip() == os.environ["MEL_MARK"]:
            return
        time.sleep(0.5)
    # The only node of a job has written it itself.
    raise (Shared if os.environ["MEL_NODES"] == "1" else Unfit)(
        f"does not see {path}: the project must lie on a file system that all nodes share"
    )


def check_disk() -> None:
    """Space for Ray's sessions and spilled objects, and for checkpoints."""
    folder = os.environ["MEL_TMP"]
    if len(folder) > _LONGEST_TMP:
        raise Unfit(f"MEL_TMP={folder}: longer than {_LONGEST_TMP} characters, too long for Ray's sockets")
    check_room(folder, "MEL_MIN_FREE_GB", shared=False)
    if run_dir := os.environ.get("MEL_RUN_DIR"):
        check_room(run_dir, "MEL_RUN_FREE_GB", shared=True)


def check_room(name: str, least: str, shared: bool) -> None:
    """A folder that can be written, and has the free GB that the variable `least` asks for."""
    try:
        free = shutil.disk_usage(name).free / 1e9
        with tempfile.TemporaryFile(dir=name) as file:  # fails for a quota, or a read-only disk
            file.write(b"0" * 2**20)
    except OSError as error:
        kind = Shared if shared and error.errno in _SHARED else Unfit
        raise kind(f"{name}: cannot be written: {error.strerror}") from None
    # A resumed run has written its first checkpoints already.
    share = 1 / 3 if any(Path(name, "checkpoints").glob("*/*")) else 1
    if free < float(os.environ[least]) * share:
        raise (Shared if shared else Unfit)(
            f"{name}: {free:.1f} GB free, expected {float(os.environ[least]) * share:.0f} or more ({least})"
        )


def check_gpus(deadline: float) -> None:
    """Each GPU of the job works. MEL_GPU_PROBE is a command whose last line is the number of working GPUs."""
    if not this_node.GPUS:
        return
    probe = shlex.split(os.environ.get("MEL_GPU_PROBE", "")) or [sys.executable, "-c", _PROBE]
    patience = max(1.0, deadline - time.monotonic())
    try:
        found = subprocess.run(probe, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        raise Unfit(f"the GPUs could not be counted within {patience:.0f} s (MEL_CHECK_S)") from None
    except OSError as error:
        raise Unfit(f"the GPUs could not be counted: {error}") from None
    said = found.stdout.strip().splitlines()[-1:]
    if found.returncode or not said or not said[0].strip().isdigit():
        words = (found.stderr.strip().splitlines() or ["no word"])[-1]
        raise Unfit(
            f"a GPU does not work: {words[:300]} (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')})"
        )
    if int(said[0]) < this_node.GPUS:
        raise Unfit(f"{this_node.GPUS} GPUs were asked for, {said[0].strip()} found")


def check_compilers(deadline: float) -> None:
    """The tools for compilations during a run exist and work."""
    if found := list(check_tools.problems(bool(os.environ.get("MEL_TRAINS")), deadline)):
        raise Unfit("; ".join(found))


def without_verbs(
    devices: Path = Path("/sys/class/infiniband"),
    libraries: tuple[str, ...] = ("libibverbs.so.1", "librdmacm.so.1"),
) -> str:
    """What NCCL lacks to use this node's InfiniBand, if there is any: NCCL silently falls back to TCP."""
    names = sorted(path.name for path in devices.glob("*"))
    if not names:
        return ""
    missing = []
    for library in libraries:
        try:
            loaded = ctypes.CDLL(library)
        except OSError:
            missing.append(library)
            continue
        if hasattr(loaded, "ibv_get_device_list"):  # without a provider's library none of its devices is known
            count = ctypes.c_int()
            loaded.ibv_get_device_list.restype = ctypes.c_void_p
            loaded.ibv_get_device_list(ctypes.byref(count))
            if count.value < len(names):
                missing.append(f"a provider for {len(names) - count.value} of {len(names)} devices")
    if not missing:
        return ""
    return (
        f"InfiniBand ({', '.join(names)}) lacks {', '.join(missing)}: between nodes NCCL will fall back to TCP; install "
        "libibverbs1, ibverbs-providers and librdmacm1 (Debian's names) where MEL_PYTHON runs"
    )


def versions() -> str:
    """The installed versions, without spaces, each with the pinned one of requirements.txt if it differs."""
    pinned = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)", Path("requirements.txt").read_text(), re.MULTILINE))
    found = [f"python={platform.python_version()}"]
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(_beside(name, importlib.metadata.version(name), pinned.get(name)))
    if build := vllm_build.installed():
        found.append(_beside(build.distribution, build.version, pinned["vllm"]))
    return ",".join(found)


def _beside(name: str, version: str, pinned: str | None) -> str:
    same = version.split("+")[0] == pinned
    return f"{name}={version}" + ("" if same else f"(tested:{pinned})")


def free_ports(address: str, job: int) -> int:
    """The first of two consecutive free ports, derived from the job's number, so that jobs on one node differ."""
    blocks = (_LAST - _FIRST) // _BLOCK
    for i in range(blocks):
        port = _FIRST + (job + i) % blocks * _BLOCK
        try:
            for number in (port, port + 1):
                for host in (address, ""):
                    socket.create_server((host, number)).close()
        except OSError:
            continue
        return port
    raise Unfit(f"no two free ports between {_FIRST} and {_LAST}")


def main() -> int:
    """Print the node's line."""
    deadline = time.monotonic() + float(os.environ["MEL_CHECK_S"]) - 10  # so that it reports before srun is ended
    try:
        check_shared_folder()
        check_disk()
        check_compilers(deadline)
        check_gpus(deadline)
        if words := without_verbs():
            print("warning", this_node.NAME, words)
        address = this_node.address()
        job = int(re.sub(r"\D", "", os.environ["SLURM_JOB_ID"]))
        print(this_node.NAME, "ok", address, free_ports(address, job), versions())
    except (Unfit, Shared, LookupError) as error:
        word = "shared" if isinstance(error, Shared) else "bad"
        print(this_node.NAME, word, str(error).replace("\n", " "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
