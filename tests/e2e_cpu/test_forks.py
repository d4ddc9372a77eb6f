"""`cpu.forks` against Python itself, with real processes: same behaviour, and nobody outlives anybody."""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from openrlhf_mel.cpu import forks
from openrlhf_mel.settings import vllm_build

LIMIT_S = 30
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def owner(tmp_path):
    """Starts a process that has imported `colorsys` and yields its forks until its standard input ends."""
    script = tmp_path / "owner.py"
    script.write_text(
        textwrap.dedent("""
        import atexit, colorsys, numpy, sys, tempfile
        from openrlhf_mel.cpu.forks import forks
        atexit.register(print, "the owner ends")
        kept = tempfile.TemporaryDirectory(dir=sys.argv[1])
        with forks() as program:
            print(program, flush=True)
            sys.stdin.read()
        """)
    )
    (tmp_path / "kept").mkdir()
    command, env = [sys.executable, script, tmp_path / "kept"], os.environ | {"PYTHONPATH": str(REPO)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:
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
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
        ("import sys; sys.stdout = open('/dev/full', 'w'); print(1)", 120, ""),
        ("import sys; sys.excepthook = lambda *_: print('hooked'); 1 / 0", 1, ""),
        (
            "import tempfile; d = tempfile.TemporaryDirectory(); import weakref; weakref.finalize(d, print, 'gone')",
            0,
            "",
        ),
        (
            "import logging.handlers as h, logging, sys; m = h.MemoryHandler(9, target=logging.StreamHandler(sys.stdout)); "
            "logging.getLogger().addHandler(m); logging.warning('kept')",
            0,
            "",
        ),
        ("def f(): pass\nimport pickle; print(pickle.loads(pickle.dumps(f)) is f, f.__module__)", 0, ""),
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
    """As when a pool ends whose second worker had nothing to do."""
    for _ in range(20):
        with stranger(owner) as connection:
            ask_to_sleep(connection)
            os.kill(int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big"), number)
            connection.settimeout(LIMIT_S)
            assert int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big", signed=True) == -number


def test_nobody_else_may_ask(owner):
    assert Path(owner.program).parent.stat().st_mode & 0o077 == 0


def test_the_owners_files_are_not_a_forks_to_remove(owner, tmp_path):
    run(owner.program, "-c", "")
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_daemon_ends_with_whoever_started_it(owner, tmp_path):
    code = (
        "import multiprocessing, time; process = multiprocessing.get_context('spawn').Process(target=time.sleep, "
        "args=(600,), daemon=True); process.start(); print(process.pid)"
    )
    assert gone(int(run(owner.program, "-c", code).stdout))


def test_files_are_made_with_the_rights_that_whoever_asks_gives(owner):
    code = "import os; print(oct(os.umask(0)))"
    assert run(owner.program, "-c", code, umask=0o27).stdout == "0o27\n"


def test_an_environment_that_is_smaller_than_the_owners(owner):
    code = "import os; print('HOME' in os.environ)"
    assert run(owner.program, "-c", code, env={"MEL_A": "1"}).stdout == "False\n"


def test_the_owners_children_are_not_a_forks():
    """To a fork that took them for its own, they would be daemons to end, and a tracker of semaphores that it cannot reach."""
    code = textwrap.dedent("""
        import multiprocessing, subprocess, time
        from openrlhf_mel.cpu.forks import forks
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
        child.start()
        lock = multiprocessing.get_context("spawn").Lock()
        code = "import multiprocessing as m; m.get_context('spawn').Lock(); print(m.active_children())"
        with forks() as program:
            subprocess.run([program, "-c", code])
        print(child.is_alive())
    """)
    result = run(sys.executable, "-u", "-c", code, cwd=REPO)
    assert (result.stdout, result.stderr) == ("[]\nTrue\n", "")


QUEUE = """
import multiprocessing, tempfile
def write(queue, folder):
    kept = tempfile.TemporaryDirectory(dir=folder)
    queue.put("x" * 10**6)
if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=write, args=(queue, folder), daemon=True)
        process.start()
        print(len(queue.get()))
        process.join()
        import os
        print(os.listdir(folder))
"""


def test_what_a_process_tidies_up_at_its_end(owner, tmp_path):
    """A queue's last items are written, and temporary folders removed, by hooks that the owner's imports have set."""
    script = tmp_path / "ends.py"
    script.write_text(QUEUE)
    assert run(owner.program, str(script)).stdout == run(sys.executable, str(script)).stdout == "1000000\n[]\n"


def test_an_end_of_file_comes_when_the_fork_closes_a_pipe(owner):
    code = "import os, time; os.close(1); time.sleep(600)"
    with subprocess.Popen([owner.program, "-c", code], stdout=subprocess.PIPE) as client:
        assert client.stdout.read() == b""
        client.kill()


def test_standard_files_may_be_closed(owner):
    code = "import sys, os; print(sys.stdin, os.path.exists('/proc/self/fd/0'), sys.stdout is None, file=sys.stderr)"
    close = "import os, sys; os.close(0); os.execv(sys.argv[1], sys.argv[1:])"
    expected, found = (run(sys.executable, "-c", close, p, "-c", code).stderr for p in (sys.executable, owner.program))
    assert found == expected == "None False False\n"


def test_modules_are_found_where_whoever_asks_says(owner, tmp_path):
    (tmp_path / "only_here.py").write_text("print('found')")
    asked = run(owner.program, "-c", "import only_here", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert asked.stdout == "found\n"


def test_random_numbers_are_each_forks_own(owner):
    code = "import random, numpy; print(random.random(), numpy.random.random())"
    assert len({number for _ in range(2) for number in run(owner.program, "-c", code).stdout.split()}) == 4


def test_a_module_is_run_by_python_itself(owner):
    assert run(owner.program, "-m", "this").stdout == run(sys.executable, "-m", "this").stdout
    assert run(owner.program, "-V").stdout == run(sys.executable, "-V").stdout


def test_shared_memory_is_removed_when_the_owner_is_killed(owner):
    code = (
        "from multiprocessing.shared_memory import SharedMemory as S; print(S(create=True, size=9).name, flush=True); "
    )
    with subprocess.Popen(
        [owner.program, "-c", code + "import time; time.sleep(600)"], stdout=subprocess.PIPE
    ) as client:
        segment = Path("/dev/shm", client.stdout.readline().decode().strip().removeprefix("/"))
        assert segment.exists()
        time.sleep(
            1
        )  # its tracker has started by then: one that came too late would find no server, and be Python itself
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
    if why == "no programs":  # as on a file system mounted so
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


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_what_is_imported_before_does_not_import_ray(engine, command):
    """Ray reads a worker's environment when it is imported, so a fork of a process that has it would be no worker."""
    if engine == "vllm":
        vllm_build.installed() or pytest.skip("vLLM is not installed")
    code = f"""
import importlib, os, sys
from openrlhf_mel.settings.mel_options import MELConfig
from openrlhf_mel import launch
launch.prepare_process(MELConfig(runtime="cpu", cpu_engine={engine!r}))
for module in launch._HEAVY[{engine!r}]:
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
