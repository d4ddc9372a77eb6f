"""What a node knows of itself, from Slurm's variables and slurm/lib/*.sh's: its name, its address, its share."""

from __future__ import annotations

import ipaddress
import os
import socket

import psutil

NAME = os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]
GPUS = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)


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
    here = {
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
    name = named.get(NAME, NAME)
    try:
        found = socket.gethostbyname(name)
    except OSError:
        found = ""
    # Many a machine has its own name as 127.0.1.1 in /etc/hosts, which leads nowhere from elsewhere.
    if found and (found == name or not ipaddress.ip_address(found).is_loopback):
        return found
    for addresses in here.values():
        for other in addresses:
            if not ipaddress.ip_address(other).is_loopback:
                return other
    raise LookupError("no IPv4 address but loopback's; set MEL_INTERFACE in slurm/site.env")
