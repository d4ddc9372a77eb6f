"""Bad input, a full disk or a second process: `python -m eval.run` gives one message, and nothing is lost."""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
from e2e_cpu import known_answers as known

from benchmarks.scripted_server import Answer, ScriptedServer
from data.rows import question_id
from eval import regrade, run

pytestmark = pytest.mark.timeout(300)
NOWHERE = "http://127.0.0.1:9/v1"  # nothing listens there, and no request may be sent
SECRET = "sk-marker-5f0e1d2c3b4a"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.fixture
def refused(out, capsys):
    """Check that the command exits with 2 and one line containing `message`, and leaves the folder unchanged."""

    def check(message: str, arguments: list[str]) -> str:
        before, there = known.snapshot(out), out.exists()
        capsys.readouterr()
        assert run.main([str(argument) for argument in arguments]) == 2
        stdout, stderr = capsys.readouterr()
        assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
        assert message in stderr, stderr
        assert stdout == "" and "Traceback" not in stderr
        assert (known.snapshot(out), out.exists()) == (before, there)
        return stderr

    return check


FLAGS = [
    ("--benchmarks: unknown benchmark 'aime23'; known are aime24, aime25,", ["--benchmarks", "aime24,aime23"]),
    ("unknown benchmark '../data/aime24'; known are", ["--benchmarks", "../data/aime24"]),
    ("--benchmarks: no math500.jsonl in ", ["--benchmarks", "math500"]),
    ("which has aime24, amc23; ", ["--benchmarks", "math500"]),
    ("--benchmarks: found none", ["--benchmarks", " , "]),
    ("--data-dir no/folder: no such folder", ["--data-dir", "no/folder"]),
    ("--metrics pass@8: needs at least 8 samples a question, found --n 4", ["--n", "4", "--metrics", "pass@8"]),
    ("--metrics avg@4: found --n 8, so only avg@8", ["--metrics", "pass@1,avg@4"]),
    ("--metrics maj@9: found --n 8", ["--metrics", "maj@9"]),
    ("--metrics pass@0: expected pass@1", ["--metrics", "pass@0"]),
    ("--metrics: unknown metric 'accuracy', expected pass@1, avg@8", ["--metrics", "accuracy"]),
    ("--metrics: unknown metric 'pass@-1'", ["--metrics", "pass@-1"]),
    ("--metrics: unknown metric 'pass@'", ["--metrics", "pass@"]),
    ("--metrics: found none", ["--metrics", ","]),
    ("--n 0: expected at least 1", ["--n", "0"]),
    ("--n -3: expected at least 1", ["--n", "-3"]),
    ("--temperature 0.0: expected a number above 0", ["--temperature", "0"]),
    ("--temperature -1.0: ", ["--temperature", "-1"]),
    ("--temperature nan: ", ["--temperature", "nan"]),
    ("--temperature inf: ", ["--temperature", "inf"]),
    ("--top-p 0.0: expected a number above 0, up to 1", ["--top-p", "0"]),
    ("--top-p 1.1: ", ["--top-p", "1.1"]),
    ("--top-p nan: ", ["--top-p", "nan"]),
    ("--max-tokens 0: expected at least 1", ["--max-tokens", "0"]),
    ("--limit 0: expected at least 1", ["--limit", "0"]),
    ("--limit -1: expected at least 1", ["--limit", "-1"]),
    ("--concurrency 0: expected at least 1", ["--concurrency", "0"]),
    ("--tensor-parallel: is for --backend vllm, found --backend openai", ["--tensor-parallel", "2"]),
    ("--data-parallel: is for --backend vllm, found --backend openai", ["--data-parallel", "2"]),
    ("--dtype: is for --backend vllm or hf, found --backend openai", ["--dtype", "float32"]),
    ("--token-budget: is for --backend hf, found --backend openai", ["--token-budget", "9"]),
    ("--trust-remote-code: is for --backend vllm or hf", ["--trust-remote-code"]),
    ("--base-url: is for --backend openai, found --backend hf", ["--backend", "hf"]),
    ("--checkpoints: needs --run", ["--checkpoints", "all"]),
    ("--template none.txt: no such template; expected boxed, dapo, default, question", ["--template", "none.txt"]),
    ("the placeholder {{question}} is missing", ["--template", "requirements.txt"]),
    ("--paper 9B:mel: expected SIZE:METHOD with 4B, 8B, 14B and base, grpo, mel", ["--paper", "9B:mel"]),
    ("--paper 8B: expected SIZE:METHOD", ["--paper", "8B"]),
    ("--train-report none.json: not a report", ["--train-report", "none.json"]),
    ("--train-report data/toy/model/config.json: not a report", ["--train-report", "data/toy/model/config.json"]),
    ("--base-url 'nowhere': expected an address such as", ["--base-url", "nowhere"]),
    ("--base-url 'ftp://127.0.0.1/v1': expected an address", ["--base-url", "ftp://127.0.0.1/v1"]),
    ("a key goes into OPENAI_API_KEY", ["--base-url", f"http://user:{SECRET}@127.0.0.1:9/v1"]),
    ("a key goes into OPENAI_API_KEY", ["--base-url", f"http://127.0.0.1:9/v1?api_key={SECRET}"]),
]


@pytest.mark.parametrize("message, flags", FLAGS, ids=lambda value: "" if isinstance(value, str) else "_".join(value))
def test_flags(refused, data, out, message, flags):
    assert SECRET not in refused(message, known.command(NOWHERE, data, out, *flags))


def test_needs_an_address(refused, data, out):
    arguments = ["--backend", "openai", "--model", "m", "--data-dir", data, "--output-dir", out]
    refused("--backend openai: needs --base-url, for example http://", arguments)


@pytest.mark.parametrize("flags", [["--n", "many"], ["--run", "x"], ["--no-such-flag"], ["--backend", "magic"]])
def test_what_cannot_be_parsed(data, out, capsys, flags):
    with pytest.raises(SystemExit) as end:
        known.evaluate(NOWHERE, data, out, *flags)
    assert end.value.code == 2 and flags[0] in capsys.readouterr().err and not out.exists()


def test_runs(refused, data, out, tmp_path):
    def asked(folder, *flags):
        return ["--run", folder, "--data-dir", data, "--output-dir", out, "--benchmarks", "amc23", *flags]

    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    config = {"actor.model_name_or_path": "data/toy/model"}
    (tmp_path / "begun" / "manifest.json").write_text(json.dumps({"config": config}))
    refused(f"--run {tmp_path}/none: no such folder", asked(tmp_path / "none", "--backend", "hf"))
    refused(f"--run {tmp_path}/empty: no manifest.json", asked(tmp_path / "empty", "--backend", "hf"))
    refused("holds no model and no checkpoint", asked(tmp_path / "begun", "--backend", "hf"))
    served = ["--backend", "openai", "--base-url", NOWHERE]
    refused("--run: needs a backend that loads weights", asked(tmp_path / "begun", *served))


def test_models_that_are_not_there(refused, data, out, tmp_path):
    def asked(model, backend="hf"):
        return [
            "--model",
            model,
            "--data-dir",
            data,
            "--output-dir",
            out,
            "--benchmarks",
            "amc23",
            "--backend",
            backend,
        ]

    refused(f"--model {tmp_path}/none: no such folder", asked(tmp_path / "none"))
    refused(f"--model {data}: no config.json in this folder", asked(data))
    out.mkdir()  # the user's existing folder stays
    refused(f"--model {data}: no config.json in this folder", asked(data))
    assert list(out.iterdir()) == []


def test_model_that_is_not_served(refused, data, out):
    with ScriptedServer(known.script(), models=[{"id": "other"}]) as server:
        refused(f"--model scripted: not served at {server.url}; found other", known.command(server.url, data, out))


def test_output_folder_that_is_a_file(refused, data, out):
    out.write_text("mine")
    refused(f"--output-dir {out}: ", known.command(NOWHERE, data, out))


def test_data(refused, data, out):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, "--limit", 2) == 0
        drawn = server.requests
        path = data / "amc23.jsonl"
        whole = path.read_text()
        changed = whole.replace('"41"', '"42"')
        path.write_text(changed)
        refused(f"{path}: its SHA-256 is ", known.command(server.url, data, out))
        refused("the file was changed after it was prepared; prepare it again", known.command(server.url, data, out))
        (data / "manifest.json").unlink()  # like a user's own benchmark: it is compared with the data evaluated before
        before = known.snapshot(out)
        assert known.evaluate(server.url, data, out) == 2
        assert known.snapshot(out) == before
        first = json.loads(whole.splitlines()[0])
        for text, message in (
            ("", "no rows; expected a JSON object a line"),
            (whole[:-20], "line 7: not JSON"),
            (whole + whole, f"line 8: the id '{first['id']}' stands twice"),
            (json.dumps(first | {"answer": None}), "line 1: 'answer': found None, expected a text"),
            (json.dumps(first | {"problem": " "}), "line 1: 'problem': found ' ', expected a text"),
            ("[1]\n", "line 1: found list, expected a JSON object"),
        ):
            path.write_text(text)
            refused(message, known.command(server.url, data, out))
        path.write_text(whole)
        assert server.requests == drawn
        assert known.evaluate(server.url, data, out) == 0
    known.check_samples(out)


def test_damaged_results(refused, data, out, capsys):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, "--limit", 2) == 0
        command = known.command(server.url, data, out, "--limit", 2)
        for name, text, message in (
            ("settings.json", "{", "settings.json: cannot be read"),
            ("samples/amc23.jsonl", "{\n", "amc23.jsonl, line 1: not JSON"),
            ("samples/amc23.jsonl", '{"question": "x"}\n', "amc23.jsonl, line 1: not a sample of this version"),
        ):
            path = out / name
            whole = path.read_text()
            path.write_text(text)
            refused(message, command)
            path.write_text(whole)
    capsys.readouterr()
    assert regrade.main([str(data)]) == 2
    assert f"error: {data}: no evaluation in this folder" in capsys.readouterr().err


def test_two_processes_in_one_folder(refused, data, out):
    gate = known.Gate()
    gate.left = 0
    with ScriptedServer(gate) as server:
        other = known.start(known.command(server.url, data, out))
        deadline = time.monotonic() + 60
        while server.requests < 64 and time.monotonic() < deadline:  # all concurrent requests
            time.sleep(0.01)
        gate.left = 10**9  # without the lock a second run would succeed at once
        refused("another process is evaluating into it", known.command(server.url, data, out))
        assert other.is_alive()
        other.kill()
        other.join()
        assert known.evaluate(server.url, data, out) == 0
    known.check_samples(out)


def full_disk(size: int):
    """Return options for a process that cannot write files larger than `size` bytes."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return {"preexec_fn": limit}


def test_full_disk(data, out, command):
    """A file-size limit acts like a full disk: a write fails at once or after a part of it."""
    script = known.script()

    def long(prompt: str, greedy: bool, seed: int) -> Answer:
        answer = script(prompt, greedy, seed)
        return Answer(f"{'So we add. ' * 300}\n{answer.text}", answer.finish_reason)

    with ScriptedServer(long) as server:
        argv = [sys.executable, "-m", "eval.run", *known.command(server.url, data, out)]
        done = command(*argv, limit=120, **full_disk(100_000))
        error = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert error.startswith(f"error: {out}/samples/") and f"samples that were written to {out} stay" in error
        assert not (out / "metrics.json").exists()
        kept = {path: path.read_bytes() for path in (out / "samples").iterdir()}
        # Only whole lines remain; a file whose first line did not fit is empty.
        assert kept and all(content[-1:] in (b"\n", b"") and len(content) <= 100_000 for content in kept.values())
        count = sum(len(known.rows(out, name)) for name in known.TWO)  # raises if a line is not whole
        assert 0 < count < 153
        assert known.evaluate(server.url, data, out) == 0
        assert all(path.read_bytes().startswith(content) for path, content in kept.items())
        ids = [(row["question"], row["sample"], row["greedy"]) for name in known.TWO for row in known.rows(out, name)]
        assert len(ids) == len(set(ids)) == 153
        # Nothing is lost either when there is no room for the results.
        before = known.snapshot(out)
        done = command(*argv, limit=120, **full_disk(10))
        assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert known.snapshot(out) | before == known.snapshot(out)
        assert known.evaluate(server.url, data, out) == 0
    wanted = known.expected()
    for entry in wanted["benchmarks"].values():
        del entry["tokens_mean"]
    assert known.differing(known.metrics(out), wanted) == []


def test_key_is_told_to_the_server_alone(data, out, command, monkeypatch, capfd):
    with ScriptedServer(known.script()) as server:
        argv = [sys.executable, "-m", "eval.run", *known.command(server.url, data, out)]
        done = command(*argv, limit=120, env=os.environ | {"OPENAI_API_KEY": SECRET})
        assert done.returncode == 0
        assert {headers.get("Authorization") for headers in server.headers} == {f"Bearer {SECRET}"}
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with ScriptedServer(lambda *_: Answer(f"the key {SECRET} is none", status=401)) as server:
        assert known.evaluate(server.url, data, out, "--n", 9) == 1
    shown = capfd.readouterr()
    assert "refused with HTTP 401: the key [OPENAI_API_KEY] is none; expected a key of this server" in shown.err
    files = [path.read_text() for path in out.rglob("*") if path.is_file()]
    assert len(files) >= 8 and not any(SECRET in text for text in [*files, *shown, done.stdout, done.stderr])


def test_no_key_no_header(data, out):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, "--limit", 1, "--n", 1) == 0
        assert all("Authorization" not in headers for headers in server.headers)
    assert [row["question"] for row in known.rows(out, "amc23")] == 2 * [
        question_id("amc23", known.problem("amc23", 0))
    ]
