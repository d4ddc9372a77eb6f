"""The Slurm cluster, and the project from which jobs are submitted."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Job, missing

REPO = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).with_name("stand_ins")


@pytest.fixture(scope="session")
def cluster():
    """A Slurm of eight 8-GPU nodes."""
    if absent := missing():
        # In CI, where skips go unnoticed, missing commands are an error of the image.
        lack = pytest.fail if os.environ.get("CI") else pytest.skip
        lack(f"needs Slurm: no {', '.join(absent)} (Debian: apt-get install slurm-wlm slurmctld slurmd)")
    # Not pytest's folder, since Slurm's paths must be short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as running:
        yield running


class Project:
    """A checkout as seen by jobs: links to the repository's files, with its own runs, logs and site.env."""

    def __init__(self, folder: Path, cluster: Cluster):
        self.folder, self.cluster = folder, cluster
        self.jobs: list[str] = []
        self._site: dict[str, object] = {"MEL_CHECK_S": 60, "MEL_MIN_FREE_GB": 1}
        self._stand_ins: dict[str, str] = {}
        (folder / "slurm" / "logs").mkdir(parents=True)
        for path in [*REPO.iterdir(), *(REPO / "slurm").iterdir()]:
            if path.name not in {"slurm", "logs", "site.env", "runs", "prepared", ".git", ".venv"}:
                (folder / path.relative_to(REPO)).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)

    def site(self, **values: object) -> None:
        """Set lines of slurm/site.env; None removes a line."""
        self._site |= values
        lines = [f"{name}={shlex.quote(str(value))}\n" for name, value in self._site.items() if value is not None]
        (self.folder / "slurm" / "site.env").write_text("".join(lines))

    def stand_in(self, **scripts: str) -> None:
        """Replace what Python would run by scripts of `stand_ins/`: `stand_in(train="train.py")`."""
        self._stand_ins |= scripts
        arms = "".join(
            f'    *{word}*) exec {sys.executable} {STAND_INS / script} "$@" ;;\n'
            for word, script in self._stand_ins.items()
        )
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\ncase "$*" in\n{arms}esac\nexec {self.folder}/.venv/bin/python "$@"\n')
        python.chmod(0o755)
        self.site(MEL_PYTHON=python)

    def submit(self, *arguments: object, **environment: str) -> str:
        """Submit a job; return its id."""
        if not (self.folder / "slurm" / "site.env").exists():
            self.site()
        number = self.cluster.submit(*arguments, cwd=self.folder, **environment)
        self.jobs.append(number)
        return number

    def run(self, *arguments: object, limit: float, **environment: str) -> Job:
        """Submit a job and wait for its end."""
        return self.cluster.wait(self.submit(*arguments, **environment), limit)

    def logs(self, name: str) -> str:
        """Return all matching files under slurm/logs, each with its name."""
        found = sorted((self.folder / "slurm" / "logs").glob(f"**/{name}"))
        return "".join(f"{path}:\n{path.read_text(errors='replace')}\n" for path in found if path.is_file())


@pytest.fixture
def project(tmp_path, cluster):
    """A Project; jobs that a test leaves behind are cancelled."""
    made = Project(tmp_path / "project", cluster)
    yield made
    for number in made.jobs:
        cluster.cancel(number)


@pytest.fixture
def trainer(project):
    """A project with stand-ins for Ray, preflight and the trainer: only the scripts run, within seconds."""
    project.stand_in(
        **{
            "openrlhf_mel.train": "train.py",
            "openrlhf_mel.preflight": "says.py",
            "slurm.lib.ray_node": "ray_node.py",
            "slurm.lib.wait_for_ray": "joined.py",
        }
    )
    return project


@pytest.fixture(autouse=True)
def no_settings_of_ones_own(monkeypatch):
    """Keep the developer's own settings from the jobs."""
    for name in list(os.environ):
        if name.startswith(("MEL_", "SBATCH_", "SLURM_")):
            monkeypatch.delenv(name)
