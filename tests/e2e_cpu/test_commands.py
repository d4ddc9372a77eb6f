"""Ray's workers find the environment's commands without activation: DeepSpeed calls ninja by name."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]
REPO = Path(__file__).resolve().parents[2]
ASK = """
import os, shutil
import ray
from openrlhf_mel import launch
from openrlhf_mel.settings.resolve import resolve
from openrlhf_mel.upstream import AGENT_EXECUTOR

chosen = resolve(
    "slurm/configs/train/smoke.yaml", ["--mel.cpu_engine=transformers"], agent_executor=AGENT_EXECUTOR
)
launch.prepare_process(chosen.mel)
launch.start_ray(chosen)

@ray.remote
class Actor:
    def look(self):
        return shutil.which("ninja"), os.environ["PATH"]

print("found", *ray.get(Actor.remote().look.remote()), flush=True)
"""


@pytest.fixture
def venv(tmp_path):
    """Make a virtual environment with the tests' packages and its own ninja."""
    made = tmp_path / "venv"
    (made / "bin").mkdir(parents=True)
    (made / "bin" / "python").symlink_to(sys.executable)
    (made / "lib").symlink_to(Path(sys.prefix, "lib"))
    (made / "pyvenv.cfg").write_text(Path(sys.prefix, "pyvenv.cfg").read_text())
    ninja = made / "bin" / "ninja"
    ninja.write_text("#!/bin/sh\nexit 0\n")
    ninja.chmod(0o755)
    return made


@pytest.fixture
def cluster(venv):
    """Yield the address of a Ray cluster that was started without the environment in PATH."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [venv / "bin" / "python", "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
            "--num-cpus=2", "--num-gpus=2", "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"PATH": "/opt/site/bin:/usr/bin:/bin"}
    head = subprocess.Popen(list(map(str, argv)), env=environment, cwd="/", start_new_session=True, **quiet)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def test_an_actor_finds_ninja(command, venv, cluster):
    """The environment's folder comes first; the rest of the worker node's PATH stays."""
    environment = os.environ | {"PATH": "/usr/bin:/bin", "RAY_ADDRESS": cluster, "PYTHONPATH": str(REPO)}
    done = command(venv / "bin" / "python", "-c", ASK, limit=180, env=environment)
    assert done.returncode == 0, done.stderr
    ninja, path = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("found "))
    assert ninja == f"{venv}/bin/ninja"
    assert path == f"{venv}/bin:/opt/site/bin:/usr/bin:/bin"
