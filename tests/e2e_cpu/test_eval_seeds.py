"""`eval.run --seeds`: each seed is a normal evaluation, stops and resumes lose nothing, Slurm's array gives the same."""

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml
from e2e_cpu import known_answers as known

from benchmarks.scripted_server import ScriptedServer
from eval import regrade, seed_folders

pytestmark = pytest.mark.timeout(300)
ONE = 17 * 9  # samples of a seed


def answer(_: str, greedy: bool, seed: int) -> str:
    """Right where the seed says so: the golds are 41 to 50."""
    return f"\\boxed{{{41 + (3 if greedy else seed % 7)}}}"


def results(folder: Path) -> dict:
    """The files of an evaluation that do not depend on time, samples in any order."""
    found = {"metrics": known.metrics(folder), "settings": json.loads((folder / "settings.json").read_text())}
    for name in known.TWO:
        found[name] = sorted((folder / "samples" / f"{name}.jsonl").read_text().splitlines())
        found[f"{name} asked"] = (folder / "questions" / f"{name}.jsonl").read_text()
    return found | {"summary": (folder / "summary.md").read_text()}


def test_each_seed_is_the_evaluation_of_that_seed(data, out, tmp_path, capsys):
    with ScriptedServer(answer) as server:
        assert known.evaluate(server.url, data, out, "--seeds", "0,5") == 0
        printed = capsys.readouterr().out
        for seed in (0, 5):
            alone = tmp_path / f"alone {seed}"
            assert known.evaluate(server.url, data, alone, "--seed", seed) == 0
            assert results(out / f"seed-{seed}") == results(alone)
            assert {path.name for path in alone.iterdir()} == {path.name for path in (out / f"seed-{seed}").iterdir()}
    assert sorted(path.name for path in out.iterdir()) == ["seed-0", "seed-5", "seeds.json", "summary.md"]
    [row] = json.loads((out / "seeds.json").read_text())
    assert row["seeds"] == [0, 5] and row["average_sd"]["avg@8"] > 0 == row["average_sd"]["pass@1"]
    assert "## scripted: 2 seeds (0, 5)" in printed and printed.rstrip().endswith(str(out))


def test_more_seeds_draw_no_sample_again_and_fewer_sum_up_fewer(data, out):
    with ScriptedServer(answer) as server:
        for listed, drawn in (("0,1", 2 * ONE), ("1,0", 2 * ONE), ("2,1", 3 * ONE), ("0", 3 * ONE)):
            assert known.evaluate(server.url, data, out, "--seeds", listed) == 0
            assert len(server.bodies) == drawn
            [row] = json.loads((out / "seeds.json").read_text())
            assert row["seeds"] == [int(seed) for seed in listed.split(",")]


@pytest.mark.slow
def test_killed_and_resumed(data, out, tmp_path):
    """A kill in the first, the second and the third seed; then every sample is there once."""
    stops = [ONE // 2, ONE + 20, 2 * ONE + 70]

    def stored() -> int:
        return sum(path.read_bytes().count(b"\n") for path in out.glob("seed-*/samples/*.jsonl"))

    with ScriptedServer(answer, latency_s=0.01) as server:
        command = known.command(server.url, data, out, "--seeds", "0,1,2", "--concurrency", 2)
        for stop in stops:
            process = known.start(command)
            deadline = time.monotonic() + 60
            while stored() < stop and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.002)
            process.kill()
            process.join()
            assert process.exitcode == -9 and stop <= stored() < 3 * ONE
            assert not (out / "seeds.json").exists()
        assert known.evaluate(server.url, data, out, "--seeds", "0,1,2") == 0
        again = tmp_path / "again"
        assert known.evaluate(server.url, data, again, "--seeds", "0,1,2") == 0
    assert (out / "seeds.json").read_text() == (again / "seeds.json").read_text()
    assert (out / "summary.md").read_text() == (again / "summary.md").read_text()
    for seed in (0, 1, 2):
        assert results(out / f"seed-{seed}") == results(again / f"seed-{seed}")


@pytest.mark.release
def test_the_array_writes_the_same(data, out, tmp_path, monkeypatch):
    from slurm.lib import evaluate

    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedServer(answer) as server:
        assert known.evaluate(server.url, data, out, "--seeds", "0,4") == 0
        config = {"over": "seeds", "seeds": [0, 4], "backend": "openai", "base_url": server.url, "model": "scripted"}
        config |= {"benchmarks": list(known.TWO), "data_dir": str(data)}
        (tmp_path / "seeds.yaml").write_text(yaml.safe_dump(config))
        flags = ["--config", str(tmp_path / "seeds.yaml"), "--output-dir", str(tmp_path / "array")]
        monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        for element in (1, 0):
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(element))
            assert evaluate.main(flags) == 0
            assert (tmp_path / "array" / "seeds.json").exists() == (element == 0)  # the last one merges
        drawn = len(server.bodies)
        assert known.evaluate(server.url, data, tmp_path / "array", "--seeds", "0,4") == 0
        assert len(server.bodies) == drawn
    for name in ("seeds.json", "summary.md"):
        assert (tmp_path / "array" / name).read_text() == (out / name).read_text()
    for seed in (0, 4):
        assert results(tmp_path / "array" / f"seed-{seed}") == results(out / f"seed-{seed}")


@pytest.mark.release
def test_regrade_writes_means_and_spreads_again(data, out):
    with ScriptedServer(answer) as server:
        assert known.evaluate(server.url, data, out, "--seeds", "1,0") == 0
    before = {name: (out / name).read_text() for name in ("seeds.json", "summary.md")}
    for path in out.glob("seed-*/samples/*.jsonl"):
        path.write_text(path.read_text().replace('"status": "correct"', '"status": "wrong"'))
    (out / "summary.md").unlink()
    assert regrade.main([str(out)]) == 0
    assert {name: (out / name).read_text() for name in before} == before
    assert not (out / "checkpoints.json").exists()


@pytest.mark.release
def test_evaluations_with_and_without_seeds_do_not_mix(data, out, tmp_path, capsys):
    with ScriptedServer(answer) as server:
        assert known.evaluate(server.url, data, out, "--seeds", "0") == 0
        before = known.snapshot(out)
        assert known.evaluate(server.url, data, out) == 2
        assert "holds evaluations of several seeds; add --seeds" in capsys.readouterr().err
        assert known.snapshot(out) == before
        alone = tmp_path / "alone"
        assert known.evaluate(server.url, data, alone) == 0
        before = known.snapshot(alone)
        assert known.evaluate(server.url, data, alone, "--seeds", "0,1") == 2
        assert "holds an evaluation without --seeds" in capsys.readouterr().err
        assert known.snapshot(alone) == before
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").touch()
        assert known.evaluate(server.url, data, tmp_path / "mine", "--seeds", "0") == 2
        assert "not empty, and no evaluation" in capsys.readouterr().err
        shutil.move(out / "seed-0", tmp_path / "moved")  # a seed's folder is an evaluation like any other
        assert known.evaluate(server.url, data, tmp_path / "moved") == 0
        assert len(server.bodies) == 2 * ONE
    assert seed_folders.existing(tmp_path / "moved") == []


@pytest.mark.parametrize("listed", ["0,0", "a", "0,1.5", "-1", ""])
def test_seeds_that_are_none(data, out, capsys, listed):
    assert known.evaluate("http://localhost:1", data, out, f"--seeds={listed}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --seeds {listed}: found ") and error.count("\n") == 1
    assert not out.exists()


def test_seeds_of_other_settings_are_refused_before_anything_is_drawn(data, out, capsys):
    """Whether the other seed's folder is of this command (a later one of it, too), or only lies beside."""
    hot = ("--temperature", "1.0")
    with ScriptedServer(answer) as server:
        assert known.evaluate(server.url, data, out, "--seeds", "1") == 0
        before = known.snapshot(out)
        for listed in ("0,1", "1,0", "0"):
            assert known.evaluate(server.url, data, out, "--seeds", listed, *hot) == 2
            error = capsys.readouterr().err
            assert "sampling.temperature: 0.6 -> 1.0" in error and "seed-1" in error
            assert len(server.bodies) == ONE and known.snapshot(out) == before
        assert f"error: {out / 'seed-1'} and {out / 'seed-0'}: found seeds of other settings, " in error
        assert not (out / "seed-0").exists()
        (out / "seed-7" / "samples").mkdir(parents=True)  # a command of other settings was stopped before it drew
        (out / "seed-7" / "settings.json").write_text('{"seed": 7}')
        assert known.evaluate(server.url, data, out, "--seeds", "0") == 0
