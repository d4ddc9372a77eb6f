"""This node's name, address and share of the job, from the variables of Slurm and of slurm/lib/*.sh."""

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
    """PATH with the commands of this Python's environment, such as ninja, first: it need not be activated."""
    return os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))


def cpus() -> int:
    """The job's CPUs on this node. Ray would take all of the machine's."""
    return int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)


def memory_bytes() -> int | None:
    """The job's memory on this node; None if Slurm does not count it."""
    if whole := int(os.environ.get("SLURM_MEM_PER_NODE") or 0):
        return whole * 2**20
    return int(os.environ.get("SLURM_MEM_PER_CPU") or 0) * cpus() * 2**20 or None


def address() -> str:
    """The IPv4 address at which other nodes reach this one: of MEL_INTERFACE, else the one that Slurm itself uses.

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
    # An interface may be a bridge (docker0) with the same address on every node, so use the one on the route to the
    # others.
    for host in named.values() or ["192.0.2.1"]:  # nobody's address (RFC 5737), thus the default route
        if found := source(host):
            return found
    if not named and (others := [a for found in here.values() for a in found if not is_loopback(a)]):
        return others[0]
    raise LookupError(f"no IPv4 address that other nodes reach ({own}); set MEL_INTERFACE in slurm/site.env")


def resolved(host: str) -> str | None:
    """The host's address, if usable: many machines resolve their own name to 127.0.1.1, useless on other nodes."""
    try:
        found = socket.gethostbyname(host)
    except OSError:
        return None
    return found if found == host or not is_loopback(found) else None


def source(host: str) -> str | None:
    """This node's address on the route to `host`. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
            found: str = probe.getsockname()[0]
        except OSError:
            return None
    return None if is_loopback(found) else found


def is_loopback(address: str) -> bool:
    """Whether it is an address of the machine itself on every machine."""
    return ipaddress.ip_address(address).is_loopback
