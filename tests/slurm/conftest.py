"""The cluster, and the projects that jobs are submitted from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from slurm.cluster import Cluster, missing

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cluster():
    """A Slurm of eight 8-GPU nodes."""
    if absent := missing():
        pytest.skip(f"needs Slurm: no {', '.join(absent)} (Debian: apt-get install slurm-wlm slurmctld slurmd)")
    # Not pytest's folder: Slurm's sockets and paths must be short, and its user must be able to read them.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as running:
        yield running
