"""Fixtures of the end-to-end tests."""

from pathlib import Path

import pytest
from e2e_cpu import fork_owner
from e2e_cpu import known_answers as known


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def impatient(monkeypatch):
    """Shorten the waits between two tries."""
    monkeypatch.setattr("eval.backends.openai._LONGEST_BACKOFF_S", 0.02)


@pytest.fixture
def owner(tmp_path):
    """See `fork_owner.started`."""
    with fork_owner.started(tmp_path) as process:
        yield process


@pytest.fixture
def data(tmp_path) -> Path:
    """Two small prepared benchmarks."""
    return known.prepare(tmp_path / "data")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"
