"""`python -m eval.run`, stopped in every way and resumed: no sample twice, none lost, the same numbers."""

import os
import random
import signal
import time

import pytest
from e2e_cpu import known_answers as known

from benchmarks.scripted_server import Faults, ScriptedServer
from eval import grading, run

pytestmark = pytest.mark.timeout(300)
ALL = 153


@pytest.fixture
def slow_grading(monkeypatch):
    """Slow down grading, so that received responses are still being graded when the server is given up."""

    at_once = grading.judge

    def judge(*arguments):
        time.sleep(0.5)
        return at_once(*arguments)

    monkeypatch.setattr("eval.grading.judge", judge)


@pytest.mark.parametrize(
    "kind", ["500", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("drop", "malformed"))]
)
def test_server_that_dies(data, out, impatient, slow_grading, capsys, kind):
    with ScriptedServer(known.script(), Faults(dead_after=40, dead_kind=kind)) as server:
        assert known.evaluate(server.url, data, out) == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"error: {server.url}/completions") and "no usable answer after 7 tries" in message
        assert f"samples that were written to {out} stay" in message
        kept = {name: known.rows(out, name) for name in known.TWO}
        assert sum(map(len, kept.values())) == server.answered == 40
        assert not (out / "metrics.json").exists()
        assert known.evaluate(server.url, data, out) == 1  # still dead
        assert {name: known.rows(out, name) for name in known.TWO} == kept
        server.dead = False
        assert known.evaluate(server.url, data, out) == 0
        assert server.answered == ALL
    known.check(out)
    assert all(known.rows(out, name)[: len(kept[name])] == kept[name] for name in known.TWO)


def test_server_that_is_not_there(data, out, impatient, capsys):
    with ScriptedServer(known.script()) as server:
        url = server.url
    assert known.evaluate(url, data, out) == 1
    message = capsys.readouterr().err
    assert message.splitlines()[-1].startswith(f"error: {url}/models: no usable answer") and "Traceback" not in message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(data, out, number):
    """All responses received before the signal are graded and kept."""

    def stored() -> int:
        return sum(len(known.rows(out, name)) for name in known.TWO)

    gate = known.Gate()
    gate.left = 50
    with ScriptedServer(gate) as server:
        process = known.start(known.command(server.url, data, out))
        deadline = time.monotonic() + 60
        while (stored() < 5 or gate.left > 0) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.3)  # the last answers are in transit
        os.kill(process.pid, number)
        process.join(60)
        assert (process.exitcode, stored()) == (130, 50)
        gate.left = 10**9
        assert known.evaluate(server.url, data, out) == 0
    known.check(out)


@pytest.mark.release
def test_killed_at_random_moments(data, out, tmp_path):
    """Each kill hits a new process, forked from one with all imports. At the end no sample is missing or twice."""
    dice = random.Random(20)

    def stored() -> dict[str, bytes]:
        paths = {name: out / "samples" / f"{name}.jsonl" for name in known.TWO}
        contents = {name: path.read_bytes() if path.exists() else b"" for name, path in paths.items()}
        return {name: content[: content.rfind(b"\n") + 1] for name, content in contents.items()}

    def lines() -> int:
        return sum(content.count(b"\n") for content in stored().values())

    def arguments(server: ScriptedServer) -> list[str]:
        return known.command(server.url, data, out, "--n", 12, "--concurrency", 3)

    for _ in range(20):  # 221 samples, at most 11 before each kill
        before, count, gate = stored(), lines(), known.Gate()
        gate.left = dice.randint(0, 11)
        wanted = count + dice.randint(0, gate.left)
        # A server for each: requests of a killed process would use up the next one's answers.
        with ScriptedServer(gate) as server:
            process = known.start(arguments(server))
            deadline = time.monotonic() + 60
            while lines() < wanted and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.05 if wanted > count else 1.2))
            process.kill()
            process.join()
        assert process.exitcode == -9 and lines() >= wanted
        assert all(stored()[name].startswith(content) for name, content in before.items())
    assert 0 < lines() < 221
    with ScriptedServer(known.script()) as server:
        assert run.main(arguments(server)) == 0
        again = tmp_path / "uninterrupted"
        assert known.evaluate(server.url, data, again, "--n", 12) == 0
    known.check(out, 12)
    assert known.metrics(out) == known.metrics(again)


def test_cut_last_line_is_drawn_again(data, out):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out) == 0
        for name, cut in zip(known.TWO, (1, 150), strict=True):
            path = out / "samples" / f"{name}.jsonl"
            path.write_bytes(path.read_bytes()[:-cut])
        assert [len(known.rows(out, name)) for name in known.TWO] == [89, 62]
        assert known.evaluate(server.url, data, out) == 0
        assert server.requests == ALL + 2
    known.check(out)
