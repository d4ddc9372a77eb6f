"""eval/seeds.py and eval/seed_folders.py: names of folders, means and spreads, and what lies in a folder of seeds."""

import json
import statistics
from pathlib import Path

import pytest
from evaluation_folder import write_random
from hypothesis import given
from hypothesis import strategies as st

from eval import compare, paired, report, seed_folders, seeds, store
from eval.page import reading
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)
SIZES = {"aime24": 12, "amc23": 9}


def several(folder: Path, *numbers: int, label: str = "", n: int = 4, **more) -> list[Path]:
    """Write the evaluations of some seeds, and return the seeds' folders."""
    for seed in numbers:
        own = {"settings": {"seed": seed}, "manifest": {"step": None} | more}
        write_random(seed_folders.place(folder, seed) / label, SIZES, n, 0.5, seed, model=label or "m", **own)
    return [seed_folders.place(folder, seed) for seed in numbers]


@given(st.lists(st.integers(0, 10**17), min_size=1, unique=True))
def test_seeds_come_back_in_their_order(numbers):
    assert seed_folders.parse(", ".join(map(str, numbers))) == numbers


@pytest.mark.parametrize("text", ["", ",", "1,", "a", "1.0", "-1", "1,-1", "01", "+1", "1 2", "1e3", "٣", "1" * 19])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(UserError, match=r"--seeds .*: found .*, expected whole numbers from 0 up") as caught:
        seed_folders.parse(text)
    assert "\n" not in str(caught.value)


def test_a_seed_that_is_named_twice_is_refused():
    with pytest.raises(UserError, match="--seeds 3,0,3: found 3 twice"):
        seed_folders.parse("3,0,3")
    assert seed_folders.parse(None) == []


def test_folders_of_seeds_are_found_by_number(tmp_path):
    for name in ("seed-10", "seed-2", "seed-x", "seed-03", "seeds", "seed-"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-4").touch()
    assert [path.name for path in seed_folders.existing(tmp_path)] == ["seed-2", "seed-10"]
    assert seed_folders.existing(tmp_path / "nowhere") == []


def test_mean_and_spread_of_each_metric(tmp_path):
    places = several(tmp_path, 0, 1, 7)
    seeds.write_seeds(tmp_path, places)
    [row] = json.loads((tmp_path / "seeds.json").read_text())
    single = [json.loads((place / "metrics.json").read_text()) for place in places]
    assert row["seeds"] == [0, 1, 7] and row["model"] == "m"
    for metric in ("pass@1", "avg@4", "pass@4"):
        values = [found["average"][metric] for found in single]
        assert row["average"][metric] == pytest.approx(sum(values) / 3)
        assert row["average_sd"][metric] == pytest.approx(statistics.stdev(values)) and statistics.stdev(values) > 0
        for name in SIZES:
            values = [found["benchmarks"][name][metric] for found in single]
            assert row["benchmarks"][name]["mean"][metric] == pytest.approx(sum(values) / 3)
            assert row["benchmarks"][name]["mean_sd"][metric] == pytest.approx(statistics.stdev(values))
    summary = (tmp_path / "summary.md").read_text()
    assert "## m: 3 seeds (0, 1, 7)" in summary and "| benchmark | pass@1 | avg@4 | pass@4 |" in summary
    shown = f"{100 * row['average']['avg@4']:.2f} ± {100 * row['average_sd']['avg@4']:.2f}"
    assert shown in next(line for line in summary.splitlines() if line.startswith("| average |"))


def test_one_seed_has_no_spread(tmp_path):
    seeds.write_seeds(tmp_path, several(tmp_path, 3, limit=5))
    [row] = json.loads((tmp_path / "seeds.json").read_text())
    assert set(row["average_sd"].values()) == {None}
    summary = (tmp_path / "summary.md").read_text()
    assert "## m: 1 seed (3)" in summary and "±" not in summary.split("Percent")[0]
    assert "Only the first 5 questions" in summary


def test_checkpoints_have_a_row_each_by_step(tmp_path):
    for label, step in (("global_step9", 9), ("global_step10", 10), ("model", None)):
        several(tmp_path, 0, 1, label=label, step=step)
    seeds.write_seeds(tmp_path, seed_folders.existing(tmp_path))
    rows = json.loads((tmp_path / "seeds.json").read_text())
    assert [(row["model"], row["step"], row["seeds"]) for row in rows] == [
        ("global_step9", 9, [0, 1]),
        ("global_step10", 10, [0, 1]),
        ("model", None, [0, 1]),
    ]
    assert seeds.recorded(tmp_path) == seed_folders.existing(tmp_path)


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(UserError, match="no seed's evaluation is finished"):
        seeds.write_seeds(tmp_path, [tmp_path / "seed-0"])
    places = several(tmp_path, 0) + several(tmp_path, 1, n=2)
    with pytest.raises(UserError, match=r"seed-0 has avg@4, .* and .*seed-1 has avg@2, .*evaluate both with the same"):
        seeds.write_seeds(tmp_path, places)
    assert seeds.recorded(tmp_path) == [] and not (tmp_path / "seeds.json").exists()


def test_compare_takes_the_samples_of_all_seeds(tmp_path, capsys):
    """As of one evaluation with as many samples; the greedy response is the first seed's."""
    several(tmp_path / "out", 0, 1, 10)
    write_random(tmp_path / "other", SIZES, 4, 0.5, 7)
    for folder in (*seed_folders.existing(tmp_path / "out"), tmp_path / "other"):
        (folder / "settings.json").write_text(json.dumps({"seed": folder.name}))
    found = paired.compare(*map(paired.load, (tmp_path / "out", tmp_path / "other")))
    assert found["samples"] == {"baseline": dict.fromkeys(SIZES, 12), "other": dict.fromkeys(SIZES, 4)}
    single = [paired.load(tmp_path / "out" / f"seed-{seed}") for seed in (0, 1, 10)]
    rights = [[q.sampled.values() for q in e.questions["aime24"].values()] for e in single]
    shares = [sum(map(sum, question)) / 12 for question in zip(*rights, strict=True)]
    assert found["benchmarks"]["aime24"]["avg@4"]["baseline"] == pytest.approx(statistics.fmean(shares))
    greedy = statistics.fmean(q.greedy for q in single[0].questions["aime24"].values())
    assert found["benchmarks"]["aime24"]["pass@1"]["baseline"] == pytest.approx(greedy)
    assert found["settings_that_differ"] == ["seed: ['seed-0', 'seed-1', 'seed-10'] -> other"]
    assert compare.main([str(tmp_path / "out"), str(tmp_path / "other")]) == 0
    assert f"against the baseline {tmp_path / 'out'}" in capsys.readouterr().out


def test_the_report_shows_a_models_seeds_side_by_side(tmp_path):
    several(tmp_path / "out", 0, 2, 10)
    seeds.write_seeds(tmp_path / "out", seed_folders.existing(tmp_path / "out"))
    assert [path.name for path in reading.find(tmp_path / "out")] == ["seed-0", "seed-2", "seed-10"]
    assert report.main([str(tmp_path / "out"), "--output", str(tmp_path / "page")]) == 0
    assert "seed-10" in (tmp_path / "page" / "index.html").read_text()


def test_seeds_of_a_run_are_named(tmp_path, capsys):
    out = tmp_path / "out"
    for label in ("model", "global_step4"):
        several(out, 0, 1, label=label)
    seeds.write_seeds(out, seed_folders.existing(out))
    assert report.main([str(out), "--output", str(tmp_path / "page")]) == 2
    assert f"holds several seeds; name one of {out / 'seed-0'}, {out / 'seed-1'}\n" in capsys.readouterr().err
    assert compare.main([str(out), str(out)]) == 2
    listed = f"{out / 'seed-0' / 'global_step4'}, {out / 'seed-0' / 'model'}"
    assert f"holds several checkpoints; name one of {listed}\n" in capsys.readouterr().err
    every = [out / f"seed-{seed}" / label for seed in (0, 1) for label in ("global_step4", "model")]
    assert store.evaluations(out) == every
