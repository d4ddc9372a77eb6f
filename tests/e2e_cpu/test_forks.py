"""The server of `cpu.forks`, with real processes: it serves permitted clients, and no process outlives the others."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from e2e_cpu.fork_owner import LIMIT_S, REPO, gone, run, sleeping

from openrlhf_mel.cpu import forks
from openrlhf_mel.settings import vllm_build


def test_signals_are_passed_on(owner):
    code = "import signal; print('ready', flush=True); print(signal.sigwait({signal.SIGTERM}))"
    code = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); " + code
    with subprocess.Popen([owner.program, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "ready\n"
        client.terminate()
        assert client.communicate(timeout=LIMIT_S)[0] == f"{int(signal.SIGTERM)}\n"
    assert client.returncode == 0


def test_a_killed_client_takes_its_fork_along(owner):
    with sleeping(owner.program) as (client, fork):
        client.kill()
        assert gone(fork)
    assert run(owner.program, "-c", "print('the others go on')").returncode == 0


@pytest.mark.parametrize("how", ["end", "kill"])
def test_the_owner_takes_all_along(owner, how):
    with sleeping(owner.program) as (client, fork):
        server = psutil.Process(fork).ppid()
        assert server != owner.pid
        if how == "end":
            assert owner.communicate(timeout=LIMIT_S)[0] == "the owner ends\n"
        else:
            owner.kill()
        assert gone(fork)
        assert gone(server)
        assert not Path(owner.program).parent.exists()
        assert client.wait(LIMIT_S) != 0


def test_without_a_server_it_is_python_itself(tmp_path):
    client = [sys.executable, "-IS", Path(forks.__file__).with_name("fork_client.py"), tmp_path / "no socket"]
    result = run(*map(str, client), "-c", "import sys; print('colorsys' in sys.modules); sys.exit(5)")
    assert (result.stdout, result.returncode) == ("False\n", 5)


def test_many_at_once(owner):
    clients = [
        subprocess.Popen([owner.program, "-c", f"print({n} ** 2)"], stdout=subprocess.PIPE, text=True)
        for n in range(40)
    ]
    assert [client.communicate(timeout=LIMIT_S)[0] for client in clients] == [f"{n**2}\n" for n in range(40)]


def stranger(owner) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(Path(owner.program).with_name("socket")))
    return connection


@pytest.mark.parametrize("sent", [b"\0\0\0\2no", b"\0\0\1\0half", b""])
def test_a_request_that_is_none_holds_nobody_up_for_long(owner, sent):
    with stranger(owner) as connection:
        connection.sendall(sent)
        assert run(owner.program, "-c", "print('still there')").stdout == "still there\n"
        assert owner.communicate(timeout=LIMIT_S)[0] == "the owner ends\n"


def ask_to_sleep(connection: socket.socket) -> None:
    request = {"argv": ["-c", "import time; time.sleep(600)"], "cwd": "/", "env": {}, "files": [0], "umask": 0,
               "group": os.getpgrp(), "blocked": [], "ignored": []}  # fmt: skip
    body = json.dumps(request).encode()
    with open(os.devnull) as file:
        socket.send_fds(connection, [len(body).to_bytes(4, "big")], [file.fileno()])
        connection.sendall(body)


def test_whoever_goes_before_the_answer_leaves_no_fork(owner):
    with stranger(owner) as connection:
        ask_to_sleep(connection)
    run(owner.program, "-c", "")
    server = psutil.Process(owner.pid).children()[0]
    assert all(gone(fork.pid) for fork in server.children())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_may_come_before_a_fork_has_become_what_was_asked_for(owner, number):
    """This happens when a pool ends whose second worker had no work."""
    for _ in range(20):
        with stranger(owner) as connection:
            ask_to_sleep(connection)
            os.kill(int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big"), number)
            connection.settimeout(LIMIT_S)
            assert int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big", signed=True) == -number


def test_nobody_else_may_ask(owner):
    assert Path(owner.program).parent.stat().st_mode & 0o077 == 0


def test_a_daemon_ends_with_whoever_started_it(owner):
    code = (
        "import multiprocessing, time; process = multiprocessing.get_context('spawn').Process(target=time.sleep, "
        "args=(600,), daemon=True); process.start(); print(process.pid)"
    )
    assert gone(int(run(owner.program, "-c", code).stdout))


def test_shared_memory_is_removed_when_the_owner_is_killed(owner):
    code = (
        "from multiprocessing.shared_memory import SharedMemory as S; print(S(create=True, size=9).name, flush=True); "
    )
    with subprocess.Popen(
        [owner.program, "-c", code + "import time; time.sleep(600)"], stdout=subprocess.PIPE
    ) as client:
        segment = Path("/dev/shm", client.stdout.readline().decode().strip().removeprefix("/"))
        assert segment.exists()
        time.sleep(1)  # for its resource tracker: started after the kill it would find no server and be plain Python
        owner.kill()
        client.wait(LIMIT_S)
    until = time.monotonic() + LIMIT_S
    while segment.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not segment.exists()


@pytest.mark.parametrize("why", ["long", "no programs", "missing"])
def test_where_there_can_be_no_fork_none_is_said(tmp_path, monkeypatch, why):
    folder = tmp_path / ("x" * (120 if why == "long" else 1))
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    if why == "no programs":  # as on a file system mounted noexec
        monkeypatch.setattr(Path, "chmod", lambda *_: None)
    if why == "missing":
        monkeypatch.setattr(os, "pidfd_open", lambda *_: (_ for _ in ()).throw(OSError("an old kernel")))
    with forks.forks() as program:
        assert program is None
    assert not list(folder.iterdir())


def test_a_child_of_the_owner_does_not_hold_up_its_end(tmp_path):
    code = (
        "import multiprocessing, time; from openrlhf_mel.cpu.forks import forks\n"
        "with forks() as program:\n"
        "    multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,), daemon=True).start()\n"
        "print('over')"
    )
    assert run(sys.executable, "-c", code, cwd=REPO).stdout == "over\n"


@pytest.mark.parametrize("engine", [pytest.param("transformers", marks=pytest.mark.slow), "vllm"])
def test_what_is_imported_before_does_not_import_ray(engine, command):
    """Ray reads a worker's environment on import, so a process that has imported Ray cannot be forked into a worker."""
    if engine == "vllm":
        vllm_build.installed() or pytest.skip("vLLM is not installed")
    code = f"""
import importlib, os, sys
from openrlhf_mel.settings.mel_options import MELConfig
from openrlhf_mel import launch
mel = MELConfig(runtime="cpu", cpu_engine={engine!r})
launch.prepare_process(mel)
for module in launch.heavy_modules(mel):
    importlib.import_module(module)
print("ray" in sys.modules)
import subprocess
from openrlhf_mel.cpu.forks import forks
ask = "import logging; print(logging.getLogger('vllm').level)"
with forks(launch._log_as_asked) as program:
    subprocess.run([program, "-c", ask], env=os.environ | {{"VLLM_LOGGING_LEVEL": "INFO"}})
"""
    result = command(sys.executable, "-c", code, limit=120)
    assert result.stdout.splitlines()[-2:] == ["False", str(logging.INFO)], result.stderr


def test_the_program_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with forks.forks() as program:
        assert Path(program).is_file()
    assert not list(tmp_path.iterdir())
