"""A fork of `cpu.forks`, compared with Python itself: it sees, runs and ends as a new Python would."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from e2e_cpu.fork_owner import REPO, run


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
    """Ray relies on this to keep a terminal's Ctrl-C from its workers."""
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
    """Ray sets its workers' names with it; setproctitle finds the place next to the initial environment."""
    code = "import ray; ray._raylet.setproctitle('ray::Named'); print(open('/proc/self/cmdline').read().strip(chr(0)))"
    assert run(owner.program, "-c", code, env=os.environ | {"MEL_A": "1"}).stdout == "ray::Named\n"


def test_the_owners_files_are_not_a_forks_to_remove(owner, tmp_path):
    run(owner.program, "-c", "")
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_files_are_made_with_the_rights_that_whoever_asks_gives(owner):
    code = "import os; print(oct(os.umask(0)))"
    assert run(owner.program, "-c", code, umask=0o27).stdout == "0o27\n"


def test_an_environment_that_is_smaller_than_the_owners(owner):
    code = "import os; print('HOME' in os.environ)"
    assert run(owner.program, "-c", code, env={"MEL_A": "1"}).stdout == "False\n"


def test_the_owners_children_are_not_a_forks():
    """A fork that took them for its own would end the owner's daemons and use a semaphore tracker out of its reach."""
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
    """Hooks set by the owner's imports write a queue's last items and remove temporary folders."""
    script = tmp_path / "ends.py"
    script.write_text(QUEUE)
    assert run(owner.program, str(script)).stdout == run(sys.executable, str(script)).stdout == "1000000\n[]\n"


def test_an_end_of_file_comes_when_the_fork_closes_a_pipe(owner):
    code = "import os, time; os.close(1); time.sleep(600)"
    with subprocess.Popen([owner.program, "-c", code], stdout=subprocess.PIPE) as client:
        assert client.stdout.read() == b""
        client.kill()


def test_all_standard_files_may_be_closed(owner, tmp_path):
    found = "sys.stdin, sys.stdout, sys.stderr, 'colorsys' in sys.modules"
    code = f"import sys; open(sys.argv[1], 'w').write(str(({found})))"
    close = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    assert run(sys.executable, "-c", close, owner.program, "-c", code, str(tmp_path / "told")).returncode == 0
    assert (tmp_path / "told").read_text() == "(None, None, None, True)"


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
