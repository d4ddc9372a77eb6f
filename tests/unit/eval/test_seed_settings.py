"""Seeds of other settings are never taken together; gaps, other n and damaged files of seeds."""

import json
import shutil
from pathlib import Path

import pytest
from evaluation_folder import question, sample, write_evaluation, write_random

from eval import paired, regrade, seed_folders, seeds
from eval.page import reading
from eval.seed_settings import check_seeds
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)
SIZES = {"aime24": 5, "amc23": 4}


def settings(seed: int, temperature: float = 0.6, model: str = "m", **more) -> dict:
    sampling = {"temperature": temperature, "max_tokens": 512}
    return {"model": {"name": model}, "sampling": sampling, "data_sha256": {"aime24": "a"}, "seed": seed} | more


def several(folder: Path, *each: dict) -> list[Path]:
    """Write the evaluation of each seed's settings; return their folders."""
    places = [seed_folders.place(folder, own["seed"]) for own in each]
    for place, own in zip(places, each, strict=True):
        write_random(place, SIZES, 4, 0.5, own["seed"], settings=own)
        (place / "settings.json").write_text(json.dumps(own))
    return places


def test_seeds_may_differ_in_seed_benchmarks_and_what_was_shortened():
    more = {"data_sha256": {"amc23": "b"}, "n": 4, "sampling": {"temperature": 0.6, "max_tokens": 512}}
    longer = {"sampling": more["sampling"] | {"shortened_from": 600}}
    check_seeds({Path("a"): settings(0), Path("b"): settings(1, **more), Path("c"): settings(2, **longer)})
    check_seeds({Path("a"): settings(0)})
    check_seeds({})


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (settings(1, temperature=1.0), "sampling.temperature: 0.6 -> 1.0"),
        (settings(1, model="M"), "model.name: m -> M"),
        (settings(1, data_sha256={"aime24": "b"}), "data_sha256.aime24: a -> b"),
        (settings(1, model="M", temperature=1.0), "model.name: m -> M; sampling.temperature: 0.6 -> 1.0"),
    ],
)
def test_seeds_of_other_settings_are_refused(other, says, tmp_path):
    places = several(tmp_path, settings(0), other)
    for read in (lambda: paired.load(tmp_path), lambda: seeds.write_seeds(tmp_path, places)):
        with pytest.raises(
            UserError, match=f"seed-0 and .*seed-1: found seeds of other settings, {says}; exp"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "seeds.json").exists()
    seeds.write_seeds(tmp_path, places[:1])


def test_another_n_by_benchmark_is_told_by_its_benchmark(tmp_path):
    """As `--samples standard` gives with and without a `--limit`: pass@1 is the average that both have."""
    metrics = {"aime24": ["pass@1", "avg@4"], "amc23": ["pass@1", "avg@4"]}
    fewer = metrics | {"amc23": ["pass@1", "avg@2"]}
    places = several(tmp_path, settings(0, metrics=metrics), settings(1, metrics=fewer))
    for place in places:
        found = json.loads((place / "metrics.json").read_text())
        (place / "metrics.json").write_text(json.dumps(found | {"average": {"pass@1": 0.5}}))
    says = r"seed-0 has avg@4, pass@1 of amc23 and .*seed-1 has avg@2, pass@1 of amc23; evaluate both with the same --n"
    with pytest.raises(UserError, match=says):
        seeds.write_seeds(tmp_path, places)


@pytest.mark.parametrize(
    "content", ["{", "3", "null", "[3]", "[{}]", '[{"seeds": 3}]', '[{"seeds": ["x"]}]', '{"a": 1}']
)
def test_a_damaged_list_of_seeds_is_one_line_before_anything_is_judged(content, tmp_path, capsys):
    [place] = several(tmp_path, settings(0))
    (tmp_path / "seeds.json").write_text(content)
    before = (place / "samples" / "aime24.jsonl").read_text()
    assert regrade.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'seeds.json'}: ") and error.count("\n") == 1
    assert (place / "samples" / "aime24.jsonl").read_text() == before


def test_a_gap_in_the_first_seed_loses_no_sample(tmp_path):
    def row(number: int, right: bool) -> dict:
        return sample("q", number, status="correct" if right else "wrong")

    rows = {0: [row(0, True), row(2, True)], 1: [row(0, False), row(1, False), row(2, False)]}
    for seed, own in rows.items():
        place = seed_folders.place(tmp_path, seed)
        write_evaluation(place, {"toy": [(question("q"), own)]}, 3)
        (place / "settings.json").write_text(json.dumps({"seed": seed}))
    sampled = paired.load(tmp_path).questions["toy"]["q"].sampled
    assert sampled == {0: True, 2: True, 3: False, 4: False, 5: False}


def test_the_report_passes_over_what_earlier_versions_merged(tmp_path):
    places = several(tmp_path, settings(0), settings(1))
    (tmp_path / "metrics.json").write_text('{"seeds": [0, 1]}')
    assert reading.find(tmp_path) == places
    (tmp_path / "settings.json").write_text("{}")
    assert reading.find(tmp_path) == [tmp_path]


def test_a_damaged_data_end_is_found_before_anything_is_judged(tmp_path, capsys):
    folder = Path(shutil.copytree(Path(__file__).parent / "before_thinking", tmp_path / "out"))
    path = folder / "samples" / "aime24.jsonl"
    path.write_text(path.read_text().replace('"status": "correct"', '"status": "wrong"'))
    before = path.read_text()
    (folder / "extended.json").write_text('{"data_end": {}}')
    assert regrade.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / 'extended.json'}: damaged (") and error.count("\n") == 1
    assert path.read_text() == before
