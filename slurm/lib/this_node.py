"""What a node knows of itself, from Slurm's variables and slurm/lib/*.sh's: its name, its address, its share."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path

import psutil

NAME = os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]
GPUS = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)


def path() -> str:
    """PATH, with the commands of this Python's environment first: ninja is one, and nobody has to activate it."""
    return os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))


def cpus() -> int:
    """The CPUs of the job here. Ray would take all of the machine's."""
    return int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)


def memory_bytes() -> int | None:
    """The memory of the job here; None where Slurm does not count it."""
    if whole := int(os.environ.get("SLURM_MEM_PER_NODE") or 0):
        return whole * 2**20
    return int(os.environ.get("SLURM_MEM_PER_CPU") or 0) * cpus() * 2**20 or None


def address() -> str:
    """The IPv4 address that other nodes reach this one by: of MEL_INTERFACE, else the one that Slurm itself uses.

    Raises:
        LookupError: there is none.
    """
    here: dict[str, list[str]] = {
        name: [a.address for a in addresses if a.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
    }
    if interface := os.environ.get("MEL_INTERFACE"):
        if not here.get(interface):
            raise LookupError(
                f"MEL_INTERFACE={interface}: no such interface with an IPv4 address; found {', '.join(here)}"
            )
        return here[interface][0]
    named = dict(pair.split("=", 1) for pair in os.environ.get("MEL_NODE_ADDRESSES", "").split())
    own = named.pop(NAME, NAME)
    if found := resolved(own):
        return found
    # Any interface may be a bridge (docker0), with the same address on every node: what leads to the others is asked for.
    for host in named.values() or ["192.0.2.1"]:  # nobody's address (RFC 5737), thus the default route
        if found := source(host):
            return found
    if not named and (others := [a for found in here.values() for a in found if not is_loopback(a)]):
        return others[0]
    raise LookupError(f"no IPv4 address that other nodes reach ({own}); set MEL_INTERFACE in slurm/site.env")


def resolved(host: str) -> str | None:
    """Its address, where that is one. Many a machine has its own name as 127.0.1.1, which leads nowhere from elsewhere."""
    try:
        found = socket.gethostbyname(host)
    except OSError:
        return None
    return found if found == host or not is_loopback(found) else None


def source(host: str) -> str | None:
    """This node's address on the way to `host`. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
            found: str = probe.getsockname()[0]
        except OSError:
            return None
    return None if is_loopback(found) else found


def is_loopback(address: str) -> bool:
    """Whether it leads to the machine itself, from everywhere."""
    return ipaddress.ip_address(address).is_loopback
