"""Fixtures of the evaluation's tests."""

from pathlib import Path

import pytest
from run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A training run's folder."""
    return RunFolder(tmp_path / "run")
