"""`cpu.forks` against Python itself, with real processes: same behaviour, and nobody outlives anybody."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from openrlhf_mel import vllm_build
from openrlhf_mel.cpu import forks

LIMIT_S = 30


@pytest.fixture
def owner(tmp_path):
    """Starts a process that has imported `colorsys` and yields its forks until its standard input ends."""
    script = tmp_path / "owner.py"
    script.write_text(
        textwrap.dedent("""
        import atexit, colorsys, sys
        from openrlhf_mel.cpu.forks import forks
        atexit.register(print, "the owner ends")
        with forks() as program:
            print(program, flush=True)
            sys.stdin.read()
        """)
    )
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.program = process.stdout.readline().strip()
        yield process
        process.kill()


def run(program: str, *args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=LIMIT_S, **options)


def gone(pid: int) -> bool:
    """Whether the process ends within the limit."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def sleeping(program: str):
    """A fork that sleeps: its client's process, and its own number."""
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([program, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        yield client, int(client.stdout.readline())
        client.kill()


def test_imports_of_the_owner_are_there(owner):
    code = "import sys; print('colorsys' in sys.modules)"
    assert run(owner.program, "-c", code).stdout == "True\n"
    assert run(sys.executable, "-c", code).stdout == "False\n"


TELL = """
import json, os, signal, sys
lines = open("/proc/self/status").read().splitlines()
print(json.dumps({
    "masks": [line for line in lines if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
    "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "name": __name__, "file": globals().get("__file__"),
    "env": {k: v for k, v in os.environ.items() if k.startswith("MEL_")}, "in": sys.stdin.read(),
    "main": sys.modules["__main__"].__dict__ is globals(), "files": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
}))
print("told", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("as_script", [True, False])
def test_a_fork_sees_what_python_would(owner, tmp_path, as_script, code):
    script = tmp_path / "tell.py"
    script.write_text(TELL)
    command = [str(script)] if as_script else ["-c", TELL]
    options = {"input": "a line", "cwd": tmp_path, "env": os.environ | {"MEL_A": "ä b"}}
    expected = run(sys.executable, *command, str(code), "-x", **options)
    found = run(owner.program, *command, str(code), "-x", **options)
    assert json.loads(found.stdout) == json.loads(expected.stdout)
    assert (found.returncode, found.stderr) == (code, "told\n")


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("raise SystemExit('a reason')", 1, "a reason\n"),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(257)", 1, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os; os.kill(os.getpid(), 15)", -15, ""),
        ("import atexit; atexit.register(lambda: print('at the end'))", 0, ""),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()", 0, ""),
    ],
)
def test_it_ends_as_python_ends(owner, code, status, error):
    expected, found = (run(program, "-c", code) for program in (sys.executable, owner.program))
    assert found.returncode == expected.returncode == status
    assert found.stdout == expected.stdout
    assert error in found.stderr


SIGNALS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR2})
signal.signal(signal.SIGHUP, signal.SIG_IGN)
"""


def test_signals_are_blocked_and_ignored_as_whoever_asks_does(owner):
    """As Ray does it, which keeps a terminal's Ctrl-C from its workers."""
    code = "import os; s = open('/proc/self/status').read(); print([x for x in s.splitlines() if x[:6] in ('SigBlk', 'SigIgn')])"
    ask = SIGNALS + "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    expected, found = (run(sys.executable, "-c", ask, p, "-c", code).stdout for p in (sys.executable, owner.program))
    assert expected == found and "SigBlk" in found


def test_a_group_of_its_own_where_whoever_asks_has_one(owner):
    code = "import os; print(os.getpgrp() == os.getpid(), os.getpgrp())"
    assert run(owner.program, "-c", code).stdout.split() == ["False", str(os.getpgrp())]
    assert run(owner.program, "-c", code, start_new_session=True).stdout.split()[0] == "True"


def test_options_of_python_are_left_out(owner):
    assert run(owner.program, "-u", "-X", "dev", "-c", "print('ran')").stdout == "ran\n"


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
            assert not Path(owner.program).parent.exists()
        else:
            owner.kill()
        assert gone(fork)
        assert gone(server)
        assert client.wait(LIMIT_S) != 0


def test_without_an_owner_it_is_python_itself(owner):
    owner.kill()
    owner.wait()
    result = run(owner.program, "-c", "import sys; print('colorsys' in sys.modules); sys.exit(5)")
    assert (result.stdout, result.returncode) == ("False\n", 5)


SPAWN = """
import multiprocessing, sys
def double(x):
    return 2 * x, "colorsys" in sys.modules, multiprocessing.current_process().name
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        print(sorted(pool.map(double, [1, 2, 3]))[0][:2])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=sender.send, args=("through a pipe",))
    process.start()
    print(receiver.recv())
    process.join()
    print(process.exitcode)
    killed = context.Process(target=__import__("time").sleep, args=(600,))
    killed.start()
    killed.kill()
    killed.join(20)
    print(killed.exitcode)
"""


def test_what_a_fork_spawns_is_a_fork_as_well(owner, tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    result = run(owner.program, str(script))
    assert result.stdout.splitlines() == ["(2, True)", "through a pipe", "0", "-9"], result.stderr


def test_a_fork_of_a_process_can_have_a_title(owner):
    """Ray names its workers by it; it looks for the place beside the first environment."""
    code = "import ray; ray._raylet.setproctitle('ray::Named'); print(open('/proc/self/cmdline').read().strip(chr(0)))"
    assert run(owner.program, "-c", code, env=os.environ | {"MEL_A": "1"}).stdout == "ray::Named\n"


def test_many_at_once(owner):
    clients = [
        subprocess.Popen([owner.program, "-c", f"print({n} ** 2)"], stdout=subprocess.PIPE, text=True)
        for n in range(40)
    ]
    assert [client.communicate(timeout=LIMIT_S)[0] for client in clients] == [f"{n**2}\n" for n in range(40)]


def test_a_request_that_is_none_is_passed_over(owner):
    import socket

    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(Path(owner.program).with_name("socket")))
        stranger.sendall(b"\0\0\0\2no")
    assert run(owner.program, "-c", "print('still there')").stdout == "still there\n"


def test_nobody_else_may_ask(owner):
    assert Path(owner.program).parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_what_is_imported_before_does_not_import_ray(engine, command):
    """Ray reads a worker's environment when it is imported, so a fork of a process that has it would be no worker."""
    if engine == "vllm":
        vllm_build.installed() or pytest.skip("vLLM is not installed")
    code = f"""
import importlib, sys
from openrlhf_mel.config import MELConfig
from openrlhf_mel.upstream import launch
launch.prepare_process(MELConfig(runtime="cpu", cpu_engine={engine!r}))
for module in launch._HEAVY[{engine!r}]:
    importlib.import_module(module)
print("ray" in sys.modules)
"""
    result = command(sys.executable, "-c", code, limit=120)
    assert result.stdout.splitlines()[-1:] == ["False"], result.stderr


def test_the_program_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with forks.forks() as program:
        assert Path(program).is_file()
    assert not list(tmp_path.iterdir())
