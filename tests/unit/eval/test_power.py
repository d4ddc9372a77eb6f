"""`python -m eval.power`: its table by hand, pilots of one and of two models, and what it refuses."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from evaluation_folder import question, sample, write_evaluation

from eval import power
from eval.pilots import read_pilots
from eval.sample_size import samples_needed
from eval.variances import Variances
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)


def pilot(folder: Path, benchmarks: Mapping[str, np.ndarray]) -> Path:
    """Write an evaluation; each benchmark gives (questions, n) right samples."""
    asked = {}
    for name, correct in benchmarks.items():
        rows = [
            [sample(f"{name}{q}", i, status="correct" if right else "wrong") for i, right in enumerate(row)]
            for q, row in enumerate(correct)
        ]
        asked[name] = [(question(f"{name}{q}"), own) for q, own in enumerate(rows)]
    write_evaluation(folder, asked, n=max(map(len, next(iter(benchmarks.values())))))
    (folder / "settings.json").write_text("{}")
    return folder


def drawn(rng: np.random.Generator, chances: np.ndarray, n: int) -> np.ndarray:
    return (rng.random((len(chances), n)) < chances[:, None]).astype(int)


def planned(*arguments: object) -> dict:
    """What the command writes to JSON."""
    output = Path(str(arguments[1])).parent / "plan.json"
    assert power.main([*map(str, arguments), "--output", str(output)]) == 0
    return json.loads(output.read_text())


HALVES = np.array([[1, 0]] * 10 + [[0, 1]] * 10)  # each question's share is 1/2: p (1 - p) = 1/2 of 2 samples
MIXED = np.array([[1, 1]] * 5 + [[0, 0]] * 5)


def test_the_table_by_hand(tmp_path, capsys):
    """Within: 1/2 + 1/2 over 20 questions, 10^4 / 20 = 500; between: 0, since all shares are equal."""
    folder = pilot(tmp_path / "a", {"toy": HALVES})
    assert power.main(["--pilot", str(folder), "--difference", "5"]) == 0
    printed = capsys.readouterr().out
    # t(0.975, 19) = 2.093; 80% of the noncentral t lie above it at 2.95358: 2.95358 sqrt(500 / n).
    assert printed.count("\n| ") == 1  # one benchmark has no average
    assert "| toy | 20 | 2 | 500.000 | 0.000 | 175 | 23.35 | 16.51 | 11.68 | 8.26 |" in printed
    assert (
        "of 5 points on toy needs n = 175 samples a question of each model, or 88 seeds of the pilot's n = 2."
        in printed
    )
    assert "correlate by 0.9" in printed and "n = 175 would be enough" in printed


def test_one_pilot_takes_the_spread_from_the_assumed_correlation(tmp_path):
    """Shares of 0 and 1, and HALVES: the shares of MIXED vary by 10 / 4 / 9 = 0.2778 without any noise."""
    folder = pilot(tmp_path / "a", {"toy": MIXED, "even": HALVES})
    for flags, correlation in (((), 0.9), (("--correlation", 0.5), 0.5)):
        found = planned("--pilot", folder, "--difference", 5, *flags)
        toy, even = found["benchmarks"]["toy"], found["benchmarks"]["even"]
        assert toy["between"] == pytest.approx(1e4 * 2 * (1 - correlation) * 0.277778 / 10, rel=1e-5)
        assert (toy["within"], even["within"], even["between"]) == pytest.approx((0, 500, 0))
        # HALVES varies by less than its noise of 1/4: 0 in its own row, and that much less on average.
        less = 1e4 * 2 * (1 - correlation) * 0.25 / 20
        assert found["average"]["between"] == pytest.approx((toy["between"] - less) / 4)
        assert found["average"]["within"] == pytest.approx(500 / 4)
        assert found["correlation"] == correlation and found["average"]["questions"] == 30


def test_a_benchmark_without_noise_has_no_numbers(tmp_path, capsys):
    folder = pilot(tmp_path / "a", {"toy": MIXED, "even": HALVES})
    assert power.main(["--pilot", str(folder), "--difference", "5", "--correlation", "1"]) == 0
    assert "| toy | 10 | 2 | 0.000 | 0.000 | - | - | - | - | - |" in capsys.readouterr().out


def test_two_pilots_show_the_spread(tmp_path, capsys):
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.3, 0.7, 2000)
    ours = theirs + rng.choice([-0.1, 0.14], 2000)  # variance 0.0144
    folders = [pilot(tmp_path / name, {"b": drawn(rng, p, 8)}) for name, p in (("a", theirs), ("b", ours))]
    found = planned("--pilot", *folders, "--difference", 2)
    assert found["benchmarks"]["b"]["between"] == pytest.approx(1e4 * 0.0144 / 2000, rel=0.15)
    rights = read_pilots(folders, None).correct["b"]
    assert [rights[0].mean(), rights[1].mean()] == pytest.approx([theirs.mean(), ours.mean()], abs=0.02)
    assert found["average"]["n_needed"] == samples_needed([Variances.of_two(*rights)], 0.02, 0.8)
    assert found["correlation"] is None and "correlate" not in capsys.readouterr().out


def test_no_n_is_enough(tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = pilot(tmp_path / "a", {"b": drawn(rng, rng.uniform(0, 1, 60), 8)})
    found = planned("--pilot", folder, "--difference", 1)
    printed = capsys.readouterr().out
    floor = found["average"]["floor"]
    assert found["average"]["n_needed"] is None and floor > 1
    said = f"of 1 points on b is found by no n: the differences between questions hide all below {floor:.2f} points"
    assert said in printed and "More questions or benchmarks would help" in printed and "| none |" in printed
    more = planned("--pilot", folder, "--difference", 1.1 * floor)
    assert more["average"]["n_needed"] > 8
    least = planned("--pilot", folder, "--difference", 1.1 * floor, "--max-n", 8)
    assert least["average"] == more["average"]
    printed = capsys.readouterr().out
    assert "| above 8 |" in printed and "above --max-n 8" in printed


def test_seeds_are_samples_of_one_pilot(tmp_path, capsys):
    rng = np.random.default_rng(0)
    parts = [drawn(rng, np.linspace(0.1, 0.9, 20), n) for n in (4, 2, 3)]
    for seed, own in zip((0, 1, 10), parts, strict=True):
        pilot(tmp_path / "out" / f"seed-{seed}", {"b": own})
    whole = pilot(tmp_path / "whole", {"b": np.concatenate(parts, axis=1)})
    seeds, one = (read_pilots([folder], None).correct["b"][0] for folder in (tmp_path / "out", whole))
    assert seeds.shape == (20, 9)
    assert sorted(map(sorted, seeds.tolist())) == sorted(map(sorted, one.tolist()))
    assert seeds.mean(axis=1).tolist() == one.mean(axis=1).tolist()
    found = [planned("--pilot", folder, "--difference", 30) for folder in (tmp_path / "out", whole)]
    assert found[0]["average"] == found[1]["average"]
    printed = capsys.readouterr().out
    n = found[0]["average"]["n_needed"]
    assert f"or {-(-n // 3)} seeds of the pilot's n = 3." in printed and f"or {-(-n // 9)} seeds of" in printed


def test_one_benchmark_of_several(tmp_path, capsys):
    folder = pilot(tmp_path / "a", {"toy": HALVES, "other": MIXED})
    assert planned("--pilot", folder, "--difference", 5, "--benchmark", "toy")["benchmarks"].keys() == {"toy"}
    assert "5 points on toy needs" in capsys.readouterr().out


def test_questions_that_lack_samples_are_left_out(tmp_path, capsys):
    folder = pilot(tmp_path / "a", {"toy": HALVES})
    path = folder / "samples" / "toy.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert planned("--pilot", folder, "--difference", 5)["benchmarks"]["toy"]["questions"] == 19
    assert "warning: toy: left out 1 questions that lack samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--difference", "0"], "--difference 0: expected a number of points from 0.001 to 100"),
        (["--difference", "1e-168"], "--difference 1e-168: expected a number of points from 0.001 to 100"),
        (["--difference", "0.0009"], "--difference 0.0009: expected"),
        (["--difference", "nan"], "--difference nan: expected"),
        (["--difference", "101"], "--difference 101: expected"),
        (["--difference", "1", "--power", "1"], "--power 1: expected a chance above 0.05"),
        (["--difference", "1", "--power", "0.05"], "--power 0.05: expected a chance"),
        (["--difference", "1", "--max-n", "0"], "--max-n 0: expected at least 1"),
        (["--difference", "1", "--correlation", "1.5"], "--correlation 1.5: expected a number from -1 to 1"),
        (["--difference", "1", "--benchmark", "aime24"], "--benchmark aime24: not in the pilot; expected one of toy"),
        (["--difference", "1", "--output", "."], "--output .: expected a file"),
    ],
)
def test_flags_out_of_range(tmp_path, capsys, flags, said):
    folder = pilot(tmp_path / "a", {"toy": HALVES})
    assert power.main(["--pilot", str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_least_difference_has_a_plan(tmp_path):
    folder = pilot(tmp_path / "a", {"toy": HALVES})
    assert planned("--pilot", folder, "--difference", power.LEAST_DIFFERENCE)["average"]["n_needed"] > 1e9


def test_pilots_that_say_nothing(tmp_path, capsys):
    toy = pilot(tmp_path / "toy", {"toy": HALVES})
    for name, content, said in (
        ("even", {"toy": MIXED}, "the samples of each question are all right or all wrong"),
        ("single", {"toy": HALVES[:, :1]}, "toy has 20 questions with 1 sampled responses each"),
        ("small", {"toy": HALVES[:1]}, "toy has 1 questions with 2 sampled responses each"),
    ):
        folder = pilot(tmp_path / name, content)
        assert power.main(["--pilot", str(folder), "--difference", "1"]) == 2
        assert said in capsys.readouterr().err
    for folders, flags, said in (
        ([toy, toy], [], "expected one evaluation, or one of each of the two models"),
        ([toy, tmp_path / "even", tmp_path / "single"], [], "expected one evaluation, or one of each"),
        ([toy, tmp_path / "even"], ["--correlation", "0.5"], "--correlation: is assumed with one pilot alone"),
        ([tmp_path / "nowhere"], [], "no evaluation in this folder"),
    ):
        assert power.main(["--pilot", *map(str, folders), "--difference", "1", *flags]) == 2
        assert said in capsys.readouterr().err


def test_several_checkpoints_are_no_pilot(tmp_path):
    for label in ("model", "global_step4"):
        pilot(tmp_path / "run" / label, {"toy": HALVES})
    with pytest.raises(UserError, match=r"holds several checkpoints; name one of .*global_step4, .*model"):
        read_pilots([tmp_path / "run"], None)
