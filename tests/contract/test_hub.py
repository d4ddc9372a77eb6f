"""Reading a data set from the hub with the real `datasets` and `huggingface_hub`, over HTTP, from a local server.

The server answers these libraries' requests as the Hugging Face hub does: a data set's commit, the tree of its files,
and the files by a redirect to another host. The commands run in separate processes, since the libraries read
HF_ENDPOINT on import.
"""

import hashlib
import io
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
REPO = "openai/gsm8k"
PATHS = re.compile(rf"(?:/api)?/datasets/{REPO}(?:/(revision|tree|resolve)/([^/?]+)/?([^?]*))?(?:\?.*)?$")
NEWEST, OLDER = "a1" * 20, "b2" * 20
pytestmark = pytest.mark.timeout(400)
TEST_ROWS = 1319  # as many as prepare_benchmarks.py expects
CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train-*}, {split: test, path: main/test-*}]
- config_name: socratic
  data_files: [{split: train, path: socratic/train-*}]
---
"""
TRAIN = ("-m", "data.prepare_train", "--source", "gsm8k-train")
BENCHMARKS = ("-m", "data.prepare_benchmarks", "--only", "gsm8k")


def questions(what: str, count: int) -> dict[str, str]:
    """Return questions with their answers; `what` makes those of each file different."""
    return {f"Ann has {n} {what} and buys {n}. How many has she?": str(2 * n) for n in range(9, 9 + count)}


def parquet(rows: dict[str, str]) -> bytes:
    answers = [f"She adds what she buys.\n#### {answer}" for answer in rows.values()]
    pq.write_table(pa.table({"question": list(rows), "answer": answers}), file := io.BytesIO())
    return file.getvalue()


def files(fruit: str) -> dict[str, bytes]:
    """Return the repository's files at a commit."""
    return {
        "README.md": CARD.encode(),
        "main/train-00000-of-00001.parquet": parquet(questions(fruit, 3)),
        "main/test-00000-of-00001.parquet": parquet(questions("stones", TEST_ROWS)),
        "socratic/train-00000-of-00001.parquet": parquet(questions("doubts", 3)),
    }


class Hub(ThreadingHTTPServer):
    """A hub with one data set. `fails`: path prefix -> status of every request below it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.commits = {NEWEST: files("apples"), OLDER: files("pears")}
        self.branches = {"": NEWEST, "main": NEWEST, "release/1": OLDER}
        self.fails: dict[str, int] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        if failed := [status for start, status in self.server.fails.items() if self.path.startswith(start)]:
            return self._send(failed[0], {"X-Error-Code": "RepoNotFound"} if failed[0] == 404 else {})
        if self.path.startswith("/content/"):
            _, _, commit, path = self.path.split("/", 3)
            return self._send(200, {}, self.server.commits[commit][path])
        if not (asked := PATHS.match(self.path)):
            return self._send(404)
        kind, revision, path = asked.groups(default="")
        commit = self.server.branches.get(unquote(revision), revision)
        if commit not in self.server.commits:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        if kind == "resolve":
            return self._send_file(commit, path)
        answer = self._tree(commit, path and f"{path}/") if kind == "tree" else {"id": REPO, "sha": commit}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    do_HEAD = do_GET

    def _tree(self, commit: str, folder: str) -> list[dict[str, object]]:
        held = self.server.commits[commit]
        found = [{"type": "file", "path": p, "oid": _hash(c), "size": len(c)} for p, c in held.items()]
        folders = {os.path.dirname(path) for path in held} - {""}
        found += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        below = [entry for entry in found if entry["path"].startswith(folder)]
        deep = "recursive=true" in self.path.lower()
        return [entry for entry in below if deep or "/" not in entry["path"].removeprefix(folder)]

    def _send_file(self, commit: str, path: str) -> None:
        content = self.server.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            return self._send(404, headers | {"X-Error-Code": "EntryNotFound"})
        headers |= {"X-Linked-Etag": f'"{_hash(content)}"', "X-Linked-Size": str(len(content))}
        elsewhere = f"http://localhost:{self.server.server_port}/content/{commit}/{path}"
        self._send(302, headers | {"Location": elsewhere})

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.stop()


@pytest.fixture
def prepare(hub, command, tmp_path):
    """Run one of the commands against `hub`, without this machine's caches, tokens and proxies."""
    own = re.compile(r"HF_|HUGGING|TRANSFORMERS_OFFLINE|.*_PROXY$", re.IGNORECASE)
    env = {name: value for name, value in os.environ.items() if not own.match(name)}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}  # else the libraries may contact other servers
    env["PYTHONPATH"] = str(ROOT)
    own_folder = ("--output-dir", tmp_path / "out")
    return lambda *argv, **options: command(sys.executable, *argv, *own_folder, limit=150, env=env, **options)


def read(path: Path, question: str, answer: str) -> dict[str, str]:
    return {row[question]: row[answer] for row in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize(
    ("flags", "commit", "fruit"),
    [((), NEWEST, "apples"), (("--revision", "release/1"), OLDER, "pears"), (("--revision", OLDER), OLDER, "pears")],
    ids=["newest", "branch", "commit"],
)
def test_a_training_set_and_the_commit_that_it_was_read_at(prepare, tmp_path, flags, commit, fruit):
    done = prepare(*TRAIN, *flags)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out/train.jsonl", "input", "label") == questions(fruit, 3)
    source = json.loads((tmp_path / "out/manifest.json").read_text())["source"]
    assert source.items() >= {"repo": REPO, "config": "main", "split": "train", "revision": commit}.items()


def test_a_benchmark(prepare, tmp_path):
    done = prepare(*BENCHMARKS)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out/gsm8k.jsonl", "problem", "answer") == questions("stones", TEST_ROWS)
    source = json.loads((tmp_path / "out/manifest.json").read_text())["sources"]["gsm8k"]
    assert source.items() >= {"repo": REPO, "config": "main", "split": "test", "revision": NEWEST}.items()


@pytest.mark.parametrize("argv", [TRAIN, BENCHMARKS], ids=["train", "benchmarks"])
@pytest.mark.parametrize("failure", [404, 500, "closed"])
def test_a_hub_that_cannot_be_read_says_what_to_fetch_by_hand(prepare, hub, tmp_path, failure, argv):
    if failure == "closed":
        hub.stop()
    else:
        hub.fails = {"/": failure}
    done = prepare(*argv)
    split, flag = ("train", "--input ") if argv == TRAIN else ("test", "--input-dir ")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) <= 10
    assert f"hf download {REPO} main/{split}-00000-of-00001.parquet " in done.stderr and flag in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_repositorys_name_is_not_taken_for_it(prepare, tmp_path):
    for name, content in files("plums").items():
        (tmp_path / REPO / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / REPO / name).write_bytes(content)
    done = prepare(*TRAIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out/train.jsonl", "input", "label") == questions("apples", 3)


@pytest.mark.slow  # the libraries retry for half a minute
def test_another_commit_in_the_cache_is_not_taken_for_the_one_that_was_asked_for(prepare, hub, tmp_path):
    hub.branches[""] = OLDER
    assert prepare(*TRAIN).returncode == 0
    before = (tmp_path / "out/manifest.json").read_bytes()
    hub.branches[""] = NEWEST
    hub.fails = {f"/datasets/{REPO}/resolve/": 500}
    done = prepare(*TRAIN)
    assert done.returncode == 2 and f"hf download {REPO}" in done.stderr, done.stderr
    assert (tmp_path / "out/manifest.json").read_bytes() == before
