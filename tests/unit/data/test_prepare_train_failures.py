"""The training set's command under failures: a full disk, signals, kills, an output that cannot be written."""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from foreground import default_signals
from tqdm import tqdm

from toolkit import cli as data_command

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def prepare(tmp_path):
    """Return the command line for `count` questions, with output to `out`."""

    def argv(count: int) -> list[str]:
        rows = [{"question": f"Find the sum of ${i}+{2 * i}$.", "answer": str(3 * i)} for i in range(count)]
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = ["--source", "custom", "--input", path, "--output-dir", tmp_path / "out"]
        return [sys.executable, "-m", "data.prepare_train", *map(str, flags)]

    return argv


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.exists() else {}


def small_files():
    """Limit files to 64 KiB: a write fails in the middle, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))


def test_a_full_disk(prepare, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("old")
    done = command(*prepare(4000), limit=60, preexec_fn=small_files)
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert "the output folder is whole if its manifest.json is there" in done.stderr
    assert contents(tmp_path / "out") == {"train.jsonl": b"old"} and len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_tidy_up(prepare, tmp_path, number):
    options = {"cwd": REPO, "stderr": subprocess.PIPE, "text": True, "preexec_fn": default_signals}
    process = subprocess.Popen(prepare(80_000), **options)
    while not (tmp_path / "out").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_are_ignored_stay_so(prepare, tmp_path, number):
    """As under nohup or in a shell's background: the command completes its work."""

    def ignoring():
        default_signals()
        signal.signal(number, signal.SIG_IGN)

    options = {"cwd": REPO, "stderr": subprocess.PIPE, "text": True, "preexec_fn": ignoring}
    process = subprocess.Popen(prepare(2000), **options)
    while not (tmp_path / "out").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (tmp_path / "out" / "manifest.json").exists()


def test_an_interrupt_while_a_bar_is_made_is_all_that_is_said(monkeypatch):
    """tqdm would close its half-made bar, and print a failure to stderr."""

    def interrupted(*_):
        raise KeyboardInterrupt

    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setattr(tqdm, "_get_free_pos", interrupted)
    try:
        data_command.progress("reading", 7, "rows")
    except KeyboardInterrupt:
        gc.collect()
    else:
        pytest.fail("it was not interrupted")
    assert said == []


@pytest.mark.slow
def test_kills_at_any_moment(prepare, tmp_path):
    """No final name ever has half a file, and the next run completes."""
    argv, out = prepare(8000), tmp_path / "out"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": REPO}
    started = time.monotonic()
    assert subprocess.run(argv, **quiet).returncode == 0
    took = time.monotonic() - started
    whole = contents(out)
    for path in out.iterdir():
        path.unlink()
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        process = subprocess.Popen(argv, start_new_session=True, **quiet)
        time.sleep(took * share)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert contents(out).items() <= whole.items()
    assert subprocess.run(argv, **quiet).returncode == 0
    assert contents(out) == whole and {path.name for path in out.iterdir()} == whole.keys()


def test_a_summary_that_cannot_be_printed(prepare, command, tmp_path):
    done = command("bash", "-c", f"{' '.join(prepare(10))} >/dev/full", limit=60)
    assert done.returncode == 1 and "everything is written, but the summary cannot be printed" in done.stderr
    assert "manifest.json" in contents(tmp_path / "out")
