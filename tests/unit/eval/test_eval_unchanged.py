"""An evaluation without thinking is byte for byte what it was before thinking was known, and its folder goes on.

`before_thinking/` was written by the last commit before that:
`--benchmarks aime24,amc23 --limit 6 --n 3` with the server of `known_answers.script`.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
from e2e_cpu import known_answers as known

from benchmarks.scripted_server import ScriptedServer
from eval import compare, grading, regrade, report

pytestmark = pytest.mark.timeout(120)

BEFORE = Path(__file__).parent / "before_thinking"
FLAGS = ("--limit", 6, "--n", 3)
SINCE = {"extended.json", "extended.md", ".lock"}  # files that earlier versions did not write


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def content(folder: Path) -> dict[str, str]:
    """Return every file's text without versions and the manifest; samples are appended in any order, so sorted."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in SINCE):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'"versions": \{[^}]*\}', '"versions": {}', text)
        text = re.sub(r'"manifest": \{.*?\n  \}', '"manifest": {}', text, flags=re.DOTALL)
        found[str(path.relative_to(folder))] = (
            "".join(sorted(text.splitlines(True))) if path.parent.name == "samples" else text
        )
    return found


@pytest.fixture
def data(tmp_path) -> Path:
    return known.prepare(tmp_path / "data")


@pytest.fixture
def earlier(tmp_path) -> Path:
    """A copy of the earlier folder, with this installation's versions: those of another one are refused."""
    folder = Path(shutil.copytree(BEFORE, tmp_path / "earlier"))
    path = folder / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"versions": grading.judged_by()}))
    return folder


def test_what_is_written_is_what_was_written(data, tmp_path):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, tmp_path / "now", *FLAGS) == 0
    assert content(tmp_path / "now") == content(BEFORE)


def test_an_earlier_folder_resumes(data, earlier):
    path = earlier / "samples" / "amc23.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[:-5]))
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, earlier, *FLAGS) == 0
        assert server.requests == 5
    assert content(earlier) == content(BEFORE)


def test_an_earlier_folder_is_regraded_compared_and_reported(earlier, tmp_path, capsys):
    assert regrade.main([str(earlier)]) == 0
    assert "0 verdicts changed" in capsys.readouterr().out
    assert content(earlier) == content(BEFORE)
    assert compare.main([str(BEFORE), str(earlier)]) == 0
    assert report.main([str(earlier), "--output", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "thinking cut" not in page and '"reasoning"' not in page
