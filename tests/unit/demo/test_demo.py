"""The demo's figures from synthetic runs, its picture, and how it follows and ends a training run."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from demo import __main__, curves, scoreboard
from openrlhf_mel import disk
from openrlhf_mel.run import records


def step(number: int, **more) -> dict:
    return {"step": number, "reward_mean": number / 10, "rollout/tokens": 100, "seconds": 2.0 * number} | more


BASELINE = [step(n) for n in range(1, 11)]
MEL = [
    step(1, **{"mel/candidates": 2, "mel/kept": 0, "mel/tokens": 10, "mel/retention_ratio": 0.0, "loss/nll": 0.0}),
    *(
        step(n, **{"mel/candidates": 2, "mel/kept": 1, "mel/tokens": 10, "mel/retention_ratio": 0.5, "loss/nll": 1 / n})
        for n in range(2, 11)
    ),
]
ARCHIVE = [
    {"step": 1, "kept": False, "text": "a"},
    {"step": 2, "kept": True, "text": "a"},
    {"step": 3, "kept": True, "text": "b"},
    {"step": 4, "kept": True, "text": "b"},
]


def held(*sampled: list[int]) -> scoreboard.Held:
    matrix = np.array(sampled)
    return scoreboard.Held(matrix[:, :1], matrix)


BASE = held([0] * 8, [0, 1] * 4, [0] * 8)
BETTER = held([1] * 8, [1, 1] * 4, [0, 0, 0, 1] * 2)


def test_scores_by_hand():
    scores = scoreboard.scores(BASE)
    assert scores.keys() == {"pass@1", "avg@8", "pass@8", "avg@8_ci95"}
    assert scores["pass@1"] == 0
    assert scores["avg@8"] == pytest.approx(1 / 6)
    assert scores["pass@8"] == pytest.approx(1 / 3)
    low, high = scores["avg@8_ci95"]
    assert 0 < low < scores["avg@8"] < high


def test_gain_is_the_paired_difference():
    gain = scoreboard.gain(BETTER, BASE)
    assert gain["avg@8"] == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert gain["ci95"][0] < gain["avg@8"] < gain["ci95"][1]


def test_training_figures_of_the_baseline():
    assert scoreboard.training(BASELINE, [], mel=False) == {
        "reward_first5": pytest.approx(0.3),
        "reward_last5": pytest.approx(0.8),
        "retention_ratio": None,
        "distinct_share": None,
        "nll_first5": None,
        "nll_last5": None,
        "steps": 10,
        "tokens": 1000,
        "seconds": 20.0,
    }


def test_training_figures_of_mel_leave_out_steps_without_experiences():
    figures = scoreboard.training(MEL, ARCHIVE, mel=True)
    assert figures["retention_ratio"] == 0.75
    assert figures["distinct_share"] == pytest.approx(2 / 3)
    assert figures["nll_first5"] == pytest.approx(sum(1 / n for n in range(2, 7)) / 5)
    assert figures["nll_last5"] == pytest.approx(sum(1 / n for n in range(6, 11)) / 5)
    assert figures["tokens"] == 1100


def test_a_run_that_kept_nothing_has_no_figures_of_experiences():
    figures = scoreboard.training(MEL[:1], ARCHIVE[:1], mel=True)
    assert figures["retention_ratio"] == 0
    assert [figures[k] for k in ("distinct_share", "nll_first5", "nll_last5")] == [None] * 3


def test_the_table_has_a_line_a_model_with_intervals():
    matrices = {"base": BASE, "grpo": BETTER, "mel": BETTER}
    result = {name: scoreboard.scores(m) for name, m in matrices.items()}
    result["gain_over_base"] = {name: scoreboard.gain(BETTER, BASE) for name in ("grpo", "mel")}
    head, base, *trained = scoreboard.table(result, matrices).splitlines()
    assert "Pass@1" in head and "gain" in head
    assert base.split()[:2] == ["base", "0.000"]
    assert all("+0.583 [" in line for line in trained) and len(trained) == 2


def test_the_picture_is_written_whole(tmp_path):
    curves.draw(tmp_path / "curves.png", {"grpo": BASELINE, "mel": MEL})
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_the_two_configurations_differ_in_mel_alone():
    grpo, mel = (
        yaml.safe_load((__main__.TOY / f"{name}.yaml").read_text(encoding="utf-8")) for name in __main__.ALGORITHMS
    )
    assert (grpo.pop("mel")["enable"], mel.pop("mel")["enable"]) == (False, True)
    assert grpo == mel
    assert __main__.expected_steps(__main__.TOY / "grpo.yaml") == grpo["data"]["max_samples"] // 32


@pytest.mark.parametrize("name", __main__.ALGORITHMS)
def test_the_configurations_resolve(name, command):
    # --dry-run needs neither model nor data; it refuses unknown keys and values out of range.
    done = command(
        sys.executable, "-m", "openrlhf_mel.train", "--config", f"data/toy/{name}.yaml", "--dry-run", limit=100
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train.seed"] == 42


def test_a_failing_run_ends_the_demo_with_the_end_of_its_log(tmp_path, monkeypatch, capsys):
    real = subprocess.Popen

    def failing(command, **options):
        lines = "\\n".join(f"line {n}" for n in range(50))
        return real([sys.executable, "-c", f"import sys; print('{lines}'); sys.exit(3)"], **options)

    monkeypatch.setattr(__main__.subprocess, "Popen", failing)
    assert __main__.main(["--output-dir", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "grpo: training ended with exit code 3" in shown
    assert "line 49" in shown and "line 20\n" not in shown
    assert not (tmp_path / "summary.json").exists()


def test_the_bar_follows_the_lines_of_the_run(tmp_path, capsys):
    code = "import json,time; time.sleep(1)"
    disk.append_lines(tmp_path / records.METRICS, MEL)
    __main__.follow(subprocess.Popen([sys.executable, "-c", code]), tmp_path, total=10)
    shown = capsys.readouterr().err
    assert "10/10" in shown and "reward=1.00" in shown


def test_a_run_that_is_left_early_is_ended():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    __main__.stop(child)
    assert child.poll() is not None


def test_starting_afresh_removes_only_what_a_demo_made(tmp_path):
    (tmp_path / "mel" / "logs").mkdir(parents=True)
    for name in ("summary.json", "curves.png", "grpo.log", "notes.txt"):
        (tmp_path / name).touch()
    __main__.clear(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
