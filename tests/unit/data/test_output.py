"""Output folders: all files or none, whatever happens."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rows import question_id, question_row
from openrlhf_mel.errors import UserError
from toolkit.outputs import OutputFolder, json_lines

REPO = Path(__file__).resolve().parents[3]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_appear_at_the_commit_and_the_manifest_has_their_hashes(tmp_path):
    folder = tmp_path / "deep" / "out"
    with OutputFolder(folder) as output:
        output.write("a.jsonl", ['{"x": 1}\n', '{"x": 2}\n'])
        output.write_json("report.json", {"ö": 1})
        assert [name for name in names(folder) if not name.startswith(".")] == []
        output.commit({"made_by": "test"})
    assert names(folder) == ["a.jsonl", "manifest.json", "report.json"]
    assert (folder / "a.jsonl").read_text() == '{"x": 1}\n{"x": 2}\n'
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {
        "made_by": "test",
        "outputs": {name: sha256(folder / name) for name in ("a.jsonl", "report.json")},
    }


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a.jsonl").write_text("old")
    with pytest.raises(RuntimeError), OutputFolder(tmp_path) as output:
        output.write("a.jsonl", ["new"])
        raise RuntimeError
    assert names(tmp_path) == ["a.jsonl"] and (tmp_path / "a.jsonl").read_text() == "old"


def test_an_error_leaves_no_folder_that_was_not_there(tmp_path):
    with pytest.raises(RuntimeError), OutputFolder(tmp_path / "new"):
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("made", [1, 2])
def test_an_interrupt_right_after_a_folder_is_made(tmp_path, monkeypatch, made):
    """The interrupt comes after the output or the partial folder is made, before the `with` body: both are removed."""
    mkdir, calls = Path.mkdir, []

    def interrupted(self, *args, **kwargs):
        mkdir(self, *args, **kwargs)
        calls.append(self)
        if len(calls) == made:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), OutputFolder(tmp_path / "new"):
        pass
    assert len(calls) == made and names(tmp_path) == []


def test_the_manifest_is_missing_while_files_are_renamed(tmp_path, monkeypatch):
    """The order is: remove the old manifest, rename the files, write the new manifest."""
    with OutputFolder(tmp_path) as output:
        output.write("a.jsonl", ["old"])
        output.commit({})
    seen = []
    replace = os.replace

    def watched(source, target):
        if Path(target).parent == tmp_path:
            seen.append((Path(target).name, (tmp_path / "manifest.json").exists()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    with OutputFolder(tmp_path) as output:
        output.write("b.jsonl", ["new"])
        output.write("a.jsonl", ["new"])
        output.commit({})
    assert seen == [("a.jsonl", False), ("b.jsonl", False), ("manifest.json", False)]


def test_outdated_files_go(tmp_path):
    (tmp_path / "validation.jsonl").write_text("old")
    (tmp_path / "mine.txt").write_text("kept")
    with OutputFolder(tmp_path) as output:
        output.write("train.jsonl", ["x"])
        output.commit({}, outdated=["validation.jsonl", "absent.jsonl"])
    assert names(tmp_path) == ["manifest.json", "mine.txt", "train.jsonl"]


def test_what_a_killed_process_left_aside_goes_and_that_of_a_live_one_stays(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = os.uname().nodename
    for name in (f"{host}-{dead.pid}", f"{host}-{os.getppid()}", "elsewhere-1"):
        (tmp_path / f".partial-{name}").mkdir()
    with OutputFolder(tmp_path):
        pass
    assert names(tmp_path) == sorted([f".partial-{host}-{os.getppid()}", ".partial-elsewhere-1"])


@pytest.mark.parametrize("make", [lambda p: p.write_text(""), lambda p: (p.parent / "out").symlink_to("/proc/none")])
def test_a_folder_that_cannot_be_made(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(UserError, match=r"--output-dir .*out.*can be written"), OutputFolder(tmp_path / "out"):
        pass


WRITER = """
import sys
from pathlib import Path
from toolkit.outputs import OutputFolder
version = sys.argv[2]
for _ in range(1000):
    with OutputFolder(Path(sys.argv[1])) as output:
        for name in "abcd":
            output.write(name, [version * 200_000])
        output.commit({"version": version})
    print("done", flush=True)
    version = "y" if version == "x" else "x"
"""


def test_kills_at_any_moment_leave_whole_files(tmp_path):
    """Each file is whole; if there is a manifest, it matches the files."""
    for attempt in range(6):
        argv = [sys.executable, "-c", WRITER, tmp_path / "out", "x"]
        process = subprocess.Popen(list(map(str, argv)), cwd=REPO, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        files = [path for path in (tmp_path / "out").iterdir() if path.is_file() and path.name != "manifest.json"]
        assert {path.read_text() for path in files} <= {"x" * 200_000, "y" * 200_000}
        if (tmp_path / "out" / "manifest.json").exists():
            manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
            assert manifest["outputs"] == {path.name: sha256(path) for path in files}


@given(st.dictionaries(st.text(), st.text()))
def test_a_row_is_one_line_for_every_reader(row):
    [line] = json_lines([row])
    assert json.loads(line) == row
    assert line.splitlines() == [line[:-1]]


def test_ids_depend_on_the_question_alone():
    row = question_row("Find é.", "7", "toy")
    assert row == {"id": question_id("toy", "Find e\u0301."), "input": "Find é.", "label": "7", "datasource": "toy"}
    assert row["id"] == "toy-" + row["id"].rpartition("-")[2] and len(row["id"]) == 20
    assert row["id"] != question_id("toy", "Find e.")
