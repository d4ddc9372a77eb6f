"""The pool with real processes: hung, killed, out of memory, orphaned, called from threads, forks and Ray."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from foreground import default_signals

from openrlhf_mel.verifier import Verifier
from openrlhf_mel.verifier.pool import Nursery

pytestmark = pytest.mark.timeout(120)

HANGS = " \\cup ".join(f"({i},{i + 1})" for i in range(0, 120, 2))  # passes every guard but takes minutes
ROOT = Path(__file__).parents[3]


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=2, timeout_s=3) as verifier:
        assert verifier.verify(boxed("x+1"), "1+x").correct
        yield verifier


def wait_for(condition: Callable[[], object], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_hang_ends_at_the_timeout_and_its_neighbours_are_judged(verifier: Verifier) -> None:
    pairs = [(boxed("x+1"), "1+x"), (boxed(HANGS), "x"), (boxed("x+2"), "1+x"), (boxed("2x"), "x+x")]
    started = time.monotonic()
    verdicts = verifier.verify_many(pairs)
    assert [verdict.status for verdict in verdicts] == ["correct", "timeout", "wrong", "correct"]
    assert 3 <= time.monotonic() - started < 15


def test_the_clock_starts_with_the_work_not_in_the_queue() -> None:
    """Four hangs on one worker take four times the limit; the pair queued behind them is still judged."""
    with Verifier(workers=1, timeout_s=1) as verifier:
        verifier.verify(boxed("x+1"), "x")
        started = time.monotonic()
        verdicts = verifier.verify_many([(boxed(HANGS), "x")] * 4 + [(boxed("x+1"), "1+x")])
        assert [verdict.status for verdict in verdicts] == ["timeout"] * 4 + ["correct"]
        assert time.monotonic() - started > 4


def test_order_is_kept(verifier: Verifier) -> None:
    pairs = [(boxed(f"x+{i}"), f"{i % 3}+x") for i in range(60)]
    verdicts = verifier.verify_many(pairs)
    assert [verdict.correct for verdict in verdicts] == [i < 3 for i in range(60)]
    assert [verdict.extracted for verdict in verdicts] == [f"x+{i}" for i in range(60)]


def at_work(pid: int) -> bool:
    """Return whether the process is in a long job: its CPU time exceeds that of a short one."""
    return psutil.Process(pid).cpu_times().user > 0.5


def kill_workers(verifier: Verifier, times: int) -> None:
    """Send SIGKILL to the only worker at work and to its successors, `times` in all."""
    for _ in range(times):
        (pid,) = verifier.worker_pids()
        wait_for(lambda pid=pid: at_work(pid))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda before={pid}: set(verifier.worker_pids()) - before)


def test_kill_9_once_is_retried_and_nobody_sees_it() -> None:
    with Verifier(workers=1, timeout_s=30) as verifier:
        verifier.verify(boxed("x+1"), "x")
        slow = (boxed("\\{" + ",".join(map(str, range(900))) + "\\}"), "\\{0,1\\}")  # seconds of honest work
        with ThreadPoolExecutor(1) as threads:
            begun = threads.submit(verifier.verify_many, [slow, (boxed("2x"), "x+x")])
            kill_workers(verifier, times=1)
            assert [verdict.status for verdict in begun.result()] == ["wrong", "correct"]


def test_kill_9_twice_is_an_error_of_that_item_alone() -> None:
    with Verifier(workers=1, timeout_s=30) as verifier:
        verifier.verify(boxed("x+1"), "x")
        pairs = [(boxed("x+3"), "3+x"), (boxed(HANGS), "x"), (boxed("2x"), "x+x")]
        with ThreadPoolExecutor(1) as threads:
            begun = threads.submit(verifier.verify_many, pairs)
            kill_workers(verifier, times=2)
            assert [verdict.status for verdict in begun.result()] == ["correct", "error", "correct"]


@pytest.mark.parametrize("start_s", [0.0, 3.5])
def test_a_killed_nursery_is_replaced(verifier: Verifier, monkeypatch: pytest.MonkeyPatch, start_s: float) -> None:
    """When the process that forks the workers dies, the workers die too; the next answers get new ones.

    Waiting for the new process does not count towards an answer's time limit.
    """
    start = Nursery._start
    monkeypatch.setattr(Nursery, "_start", lambda nursery: (time.sleep(start_s), start(nursery)))
    workers = verifier.worker_pids()
    nursery = psutil.Process(workers[0]).parent()
    nursery.kill()
    wait_for(lambda: not any(map(alive, workers)))
    assert [v.status for v in verifier.verify_many([(boxed("2x"), "x+x")] * 8)] == ["correct"] * 8


@pytest.mark.slow
def test_kills_at_random_moments_never_stop_a_batch(verifier: Verifier) -> None:
    done = threading.Event()

    def kill_all_the_time() -> None:
        while not done.wait(0.05):
            for pid in verifier.worker_pids()[:1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    killer = threading.Thread(target=kill_all_the_time)
    killer.start()
    try:
        verdicts = verifier.verify_many([(boxed(f"x+{i}"), f"{i}+x") for i in range(400)])
    finally:
        done.set()
        killer.join()
    assert {verdict.status for verdict in verdicts} <= {"correct", "error"}
    assert verifier.verify(boxed("2x"), "x+x").correct


def test_memory_is_limited_and_a_memory_hog_harms_nobody() -> None:
    with Verifier(workers=2, timeout_s=4, memory_mb=512) as verifier:
        verifier.verify(boxed("x+1"), "x")
        largest = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                for pid in verifier.worker_pids():
                    try:
                        process = psutil.Process(pid)
                        largest.append(process.memory_info().vms)
                        assert process.rlimit(psutil.RLIMIT_AS)[1] <= 512 * 2**20
                    except psutil.NoSuchProcess:
                        continue

        watcher = threading.Thread(target=watch)
        watcher.start()
        hogs = ["(2+\\sqrt3)^{1000000}", "2^{16^{32^{64}}}", "(x+y+z+w)^{400}", "\\{" + "(a+b)^{90}," * 80 + "1\\}"]
        pairs = [pair for hog in hogs for pair in ((boxed(hog), "(x+y+z)^{399}"), (boxed("2x"), "x+x"))]
        try:
            anchored = verifier.verify_many(pairs)
            lenient = verifier.verify_many([(f"${hog}$", f"${hog} + 1$") for hog in hogs], "lenient")
        finally:
            done.set()
            watcher.join()
        assert [verdict.status for verdict in anchored[1::2]] == ["correct"] * len(hogs)
        assert not any(verdict.correct for verdict in anchored[::2] + lenient)
        assert largest and max(largest) <= 512 * 2**20


@pytest.mark.slow
def test_eight_threads_at_once(verifier: Verifier) -> None:
    pairs = [(boxed(f"x+{i}"), f"{i % 2}+x") for i in range(10)] + [(boxed(HANGS), "x")]
    expected = ["correct", "correct"] + ["wrong"] * 8 + ["timeout"]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(verifier.verify_many, [pairs] * 8))
    assert [[verdict.status for verdict in verdicts] for verdicts in results] == [expected] * 8


def run_python(code: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, *flags, "-c", code]
    environment = os.environ | variables
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_importing_is_light() -> None:
    result = run_python(
        "import sys, openrlhf_mel.verifier; print({'sympy', 'math_verify', 'torch', 'ray'} & set(sys.modules))"
    )
    assert result.stdout.strip() == "set()", result.stderr


def test_an_unguarded_script_runs_once(tmp_path: Path) -> None:
    """Start methods that import the main module would run this script's body in every worker."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "print('body')\nfrom openrlhf_mel.verifier import verify\nprint(verify('\\\\boxed{x+1}', '1+x').status)\n"
    )
    result = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.stdout.split(), result.returncode) == (["body", "correct"], 0), result.stderr


ORPHANS = """
import sys, threading, time
from openrlhf_mel.verifier import Verifier
verifier = Verifier(workers=2, timeout_s=60)
verifier.verify("\\\\boxed{x+1}", "x")
work = threading.Thread(target=verifier.verify_many, args=([("$2^{10^9}+3^{10^8}$", "$3^{10^9}$")] * 2, "lenient"))
work.start()
while len(verifier.worker_pids()) < 2:
    time.sleep(0.05)
time.sleep(1)
import psutil
print(*verifier.worker_pids(), psutil.Process(verifier.worker_pids()[0]).ppid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_in_the_middle_of_a_computation(how: signal.Signals) -> None:
    """The workers are inside one long multiplication, which holds the interpreter and checks no signals."""
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True, "preexec_fn": default_signals}
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], **options)
    try:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3 and all(map(alive, pids))
        parent.send_signal(how)
        parent.wait(timeout=30)
        wait_for(lambda: not any(map(alive, pids)), limit_s=30)
    finally:
        parent.kill()
        parent.wait()


def test_the_process_ends_at_once_when_its_main_does() -> None:
    """A daemon thread that waits for a verdict does not delay the exit."""
    started = time.monotonic()
    code = "import threading, time\nfrom openrlhf_mel.verifier import Verifier\nv = Verifier(timeout_s=50)\n"
    code += f"threading.Thread(target=v.verify, args=({boxed(HANGS)!r}, 'x'), daemon=True).start()\ntime.sleep(2)\n"
    assert run_python(code).returncode == 0
    assert time.monotonic() - started < 40


def test_a_forked_child_makes_its_own_pool(verifier: Verifier) -> None:
    before = set(verifier.worker_pids())
    pid = os.fork()
    if pid == 0:
        try:
            ok = verifier.verify(boxed("2x"), "x+x").correct and not before & set(verifier.worker_pids())
            verifier.close()
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert verifier.verify(boxed("2x"), "x+x").correct


def test_close_ends_the_processes_and_a_later_call_starts_new_ones() -> None:
    verifier = Verifier(workers=2)
    verifier.verify(boxed("x+1"), "x")
    pids = verifier.worker_pids()
    assert pids
    verifier.close()
    wait_for(lambda: not any(map(alive, pids)))
    assert verifier.verify(boxed("x+1"), "1+x").correct
    pids = verifier.worker_pids()
    del verifier
    wait_for(lambda: not any(map(alive, pids)))


def test_a_worker_that_cannot_start_is_said_and_not_scored(tmp_path: Path) -> None:
    """Without Math-Verify every answer would be wrong; that must not look like a reward of 0."""
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken on purpose')")
    code = "from openrlhf_mel.verifier import verify, VerifierError\n"
    code += "try:\n    verify('\\\\boxed{x+1}', 'x')\nexcept VerifierError as error:\n    print(error)"
    assert "broken on purpose" in run_python(code, PYTHONPATH=str(tmp_path)).stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_inside_a_ray_actor() -> None:
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        log_to_driver=False,
    )
    try:

        @ray.remote
        class Actor:
            async def judge(self, response: str, answer: str) -> tuple[str, list[int]]:
                import asyncio

                from openrlhf_mel.verifier import shared_verifier

                verdict = await asyncio.to_thread(shared_verifier().verify, response, answer)
                return verdict.status, shared_verifier().worker_pids()

        actor = Actor.remote()
        found = ray.get([actor.judge.remote(boxed(f"x+{i}"), "3+x") for i in range(8)], timeout=200)
        assert [status for status, _ in found] == ["wrong"] * 3 + ["correct"] + ["wrong"] * 4
        pids = found[-1][1]
        assert pids and all(map(alive, pids))
        ray.kill(actor)
        wait_for(lambda: not any(map(alive, pids)))
    finally:
        ray.shutdown()
