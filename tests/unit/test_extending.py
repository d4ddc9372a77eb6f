"""docs/extending.md: each recipe's files and commands work in a copy of the repository."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.scripted_server import ScriptedServer

REPO = Path(__file__).resolve().parents[2]
# A file's name and the block after it, or a block of commands, in the document's order.
_BLOCK = re.compile(r"(?:^ *`([\w./]+)`[^\n]*:\n\n)?^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
MODEL = "--model Qwen/Qwen3-8B-Base"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def recipe(title: str) -> list[tuple[str, str, str]]:
    """Return (file or "", language, text) of each block of a section."""
    document = (REPO / "docs" / "extending.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    blocks = [(name, kind, textwrap.dedent(text)) for name, _, kind, text in _BLOCK.findall(section)]
    assert len(blocks) == section.count("```") // 2
    assert all(bool(name) != (kind == "sh") for name, kind, _ in blocks)
    return blocks


def change(path: Path, lines: str) -> None:
    """Apply a change; the lines that it replaces must occur exactly once."""
    parts = [(line[0], line[1:]) for line in lines.splitlines()]
    before, after = ("".join(f"{text}\n" for sign, text in parts if sign != other) for other in "+-")
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, f"{path}: does not have, or has twice:\n{before}"
    path.write_text(content.replace(before, after), encoding="utf-8")


def follow(title: str, folder: Path, model: str = MODEL) -> None:
    """Write the files, append to existing ones, apply the changes, and run the commands."""
    for name, kind, text in recipe(title):
        if kind == "diff":
            change(folder / name, text)
            continue
        if name:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((path.read_text(encoding="utf-8") + "\n" if path.exists() else "") + text, encoding="utf-8")
            continue
        for line in text.splitlines():
            command = shlex.split(line.replace(MODEL, model))
            assert command[0] == "python"
            # runs pytest without the caller's settings and cache
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
            done = subprocess.run(
                [sys.executable, *command[1:]],
                cwd=folder,
                env=environment | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Copy the parts of the repository that the recipes use."""
    for name in ("openrlhf_mel", "data", "eval", "toolkit", "slurm", "benchmarks", "tests"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "logs", "site.env"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    return tmp_path


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_scorer(folder):
    follow("A scorer", folder)
    written = rows(folder / "prepared" / "colours" / "train.jsonl")
    assert {row["label"] for row in written} == {"red blue", "blue yellow"}
    assert {row["scorer"] for row in written} == {"colours:same_words"}
    assert json.loads((folder / "prepared" / "colours" / "report.json").read_text())["dropped"] == {}


def test_a_benchmark(folder):
    def answer(prompt: str, greedy: bool, seed: int) -> str:
        return r"\boxed{B. Paris}" if "France" in prompt else r"\boxed{Lima}" if greedy else r"\boxed{A or B}"

    with ScriptedServer(answer) as server:
        follow("A benchmark", folder, f"--backend openai --base-url {server.url} --model {server.model}")
    found = json.loads((folder / "runs" / "capitals" / "metrics.json").read_text())["benchmarks"]["capitals"]
    assert (found["scorer"], found["pass@1"], found["avg@8"]) == ("choice", 1.0, 0.5)
    assert {row["scorer"] for row in rows(folder / "prepared" / "benchmarks" / "capitals.jsonl")} == {"choice"}


def test_a_paradigm(folder):
    follow("A paradigm", folder)


def test_an_evaluation_backend(folder):
    (folder / "prepared" / "benchmarks").mkdir(parents=True)
    row = {"id": "sums-1", "problem": "What is 2 + 2?", "answer": "4", "datasource": "sums"}
    (folder / "prepared" / "benchmarks" / "sums.jsonl").write_text(json.dumps(row) + "\n")
    follow("An evaluation backend", folder)
    found = json.loads((folder / "runs" / "recorded" / "metrics.json").read_text())["benchmarks"]["sums"]
    assert (found["pass@1"], found["avg@1"]) == (1.0, 0.0)


def test_a_rollout_engine(folder):
    follow("A rollout engine", folder)
    (step,) = rows(folder / "runs" / "smoke" / "metrics.jsonl")
    assert step["rollout/logprob_diff_max"] < 5e-4
    assert (
        json.loads((folder / "runs" / "smoke" / "manifest.json").read_text())["config"]["mel.cpu_engine"]
        == "one_by_one"
    )
