"""Fixtures and settings of all tests: shared data, commands under a hard time limit, repeatable property tests."""

import functools
import gc
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Torch's threads spin while they wait for each other: on shared cores one thread is many times faster than two.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's default niceness for workers is 15: parallel tests would starve them past their time limits.
os.environ.setdefault("RAY_worker_niceness", "0")

REPO = Path(__file__).resolve().parent.parent

# No deadline: the first example pays for imports, slow on a busy machine. CI uses the same examples every time.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


# Files that take more than half a minute (`pytest --durations`), apart from the groups below.
_LONG_FILES = (
    "test_bad_input",
    "test_eval_",
    "test_fork",
    "test_openrlhf",
    "test_prepare",
    "test_report",
    "test_verifier",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute tests to several workers by `group` (pytest-xdist 3.8 loses its own groups under pytest 9.2)."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(REPO / nodeid.partition("::")[0])

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, start the longest groups first, then the longest files, so none runs alone at the end."""

    def turn(item: pytest.Item) -> int:
        if group(item.path) in ("ray", "slurm", "objective"):
            return 0
        return 1 if item.path.name.startswith(_LONG_FILES) else 2

    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=turn)


def pytest_collection_finish() -> None:
    """Exclude objects created before the first test from garbage collection: they stay alive anyway."""
    gc.freeze()


@functools.cache
def group(path: Path) -> str:
    """Return the group of a test file; all tests of a group run in one worker.

    Groups: all Slurm tests; all files that start Ray clusters; the oracle's, which fork from one process; each other
    file. Two Ray clusters, or two Slurms, at once are too much for 2 cores; one of each is fine, since Slurm's tests
    mostly wait.
    """
    if path.parent.name == "slurm":
        return "slurm"
    text = path.read_text(encoding="utf-8")
    return next((mark for mark in ("ray", "objective") if f"pytest.mark.{mark}" in text), str(path))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets: $MEL_SHARED, or `shared` beside the repository."""
    path = Path(os.environ.get("MEL_SHARED") or REPO.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"needs the shared data: {path} is not a folder (set MEL_SHARED)")
    return path


@pytest.fixture
def command():
    """Run a command in the repository; after `limit` seconds kill it with its children and fail."""

    def run(*args: object, limit: float, **options) -> subprocess.CompletedProcess[str]:
        options = {"cwd": REPO, "stdin": subprocess.DEVNULL} | options
        argv = [str(arg) for arg in args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        process = subprocess.Popen(argv, **pipes, **options)
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{' '.join(argv)} was not done after {limit} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    return run
