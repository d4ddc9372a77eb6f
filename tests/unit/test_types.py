"""Every exception for mypy states its reason."""

import re
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
OVERLOOKED = re.compile(r"# type: ignore\[[a-z, -]+\]  # \w.*")


def without_reason(text: str) -> list[str]:
    return [line for line in text.splitlines() if "type: ignore" in line and not OVERLOOKED.search(line)]


def test_an_overlooked_error_has_its_code_and_its_reason():
    rooms = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    files = [path for room in rooms for path in (REPO / room).rglob("*.py")]
    assert len(files) > 100
    assert [line for path in files for line in without_reason(path.read_text())] == []


def test_one_without_code_or_reason_is_found():
    lines = ["x = 1  # type: ignore", "x = 1  # type: ignore[misc]", "x = 1  # type: ignore[misc]  # Ray awaits it"]
    assert without_reason("\n".join(lines)) == lines[:2]
