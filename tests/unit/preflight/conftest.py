"""Fixtures of the preflight tests."""

from pathlib import Path

import pytest
from preflight_runs import Runs, local_run


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    """Preflight on a configuration that passes."""
    return Runs(tmp_path, capsys)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A folder with a model and data of its own, and the YAML text that uses them, without the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path, local_run(tmp_path)
