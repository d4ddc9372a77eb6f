"""Prepared public sources, the base of training and evaluation. Needs the shared data folder."""

import json
import re
from difflib import SequenceMatcher

import pyarrow.parquet as pq
import pytest

from data import prepare_benchmarks, prepare_train, sources
from data.contamination import tokens
from data.sameness import compact, key
from openrlhf_mel.verifier import verify

pytestmark = pytest.mark.timeout(180)
# benchmark -> least number of questions with a near copy in DAPO-Math-17k (similarity at least 0.75, 0.9, 1), found by
# a search on shared 10-grams
NEAR = {"amc23": (24, 17, 8), "amc83": (46, 36, 14), "math500": (26, 13, 5), "olympiadbench": (60, 38, 6)}
COUNTS = {"aime24": 30, "aime25": 30, "amc23": 40, "amc83": 83, "math500": 500, "olympiadbench": 675, "minerva": 272, "gsm8k": 1319}  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def benchmarks(shared, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmarks")
    assert prepare_benchmarks.main(["--output-dir", str(out), "--input-dir", str(shared / "data" / "benchmarks")]) == 0
    return out


@pytest.fixture(scope="module")
def dapo(shared, benchmarks, tmp_path_factory):
    """Return the output folder for DAPO-Math-17k with the defaults, and the source's (question, answer) rows."""
    out = tmp_path_factory.mktemp("dapo")
    path = shared / "data" / "train" / "dapo_math_17k_svs.parquet"
    argv = [
        "--source",
        "dapo-math-17k",
        "--input",
        str(path),
        "--output-dir",
        str(out),
        "--benchmarks-dir",
        str(benchmarks),
    ]
    assert prepare_train.main(argv) == 0
    table = pq.read_table(path, columns=["prompt", "reward_model"]).to_pylist()
    return out, [(row["prompt"][0]["content"], row["reward_model"]["ground_truth"]) for row in table]


@pytest.fixture(scope="module")
def report(dapo):
    return json.loads((dapo[0] / "report.json").read_text())


def test_enough_remains_and_all_is_accounted_for(dapo, report):
    rows = lines(dapo[0] / "train.jsonl")
    assert len(rows) == report["rows_out"] >= 9000
    assert (
        report["rows_in"] == 17917 == report["rows_out"] + sum(found["count"] for found in report["dropped"].values())
    )
    assert report["known_as"]
    written = {question.strip(): answer for question, answer in dapo[1]}
    assert all(row["input"] in written for row in rows)  # no character is lost or changed


def test_no_two_kept_rows_are_equal_under_the_key(dapo):
    rows = lines(dapo[0] / "train.jsonl")
    assert len({key(row["input"]) for row in rows}) == len(rows)


def test_conflicting_groups_are_dropped(dapo, report):
    groups: dict[str, set] = {}
    for question, answer in dapo[1]:
        groups.setdefault(compact(question), set()).add(answer)
    conflicting = {text for text, answers in groups.items() if len(answers) > 1}
    assert len(conflicting) == 15 and sum(compact(question) in conflicting for question, _ in dapo[1]) == 30
    assert not conflicting & {compact(row["input"]) for row in lines(dapo[0] / "train.jsonl")}
    assert report["dropped"]["conflicting_answers"]["count"] >= 29  # one of the 30 rows occurs twice


def test_questions_in_chinese_that_share_only_a_number_stay_apart(dapo):
    """A key of only ASCII letters and digits would map all of these to "2022"."""
    joined = {question.strip() for question, _ in dapo[1] if re.sub(r"[^0-9a-z]", "", question.lower()) == "2022"}
    assert len(joined) >= 4 and len({key(question) for question in joined}) == len(joined)
    assert joined <= {row["input"] for row in lines(dapo[0] / "train.jsonl")}


def test_golds_rounded_by_floating_point_are_named(report):
    found = report["dropped"]["float_damage"]
    assert found["count"] == len(found["examples"]) == 5
    assert "105263157894736848" in {example["answer"] for example in found["examples"]}


@pytest.mark.parametrize("name", COUNTS)
def test_near_benchmark_questions_are_found(report, name):
    found = report["contamination"][name]
    near = {
        least: len({p["benchmark_id"] for p in found["pairs"] if p["similarity"] >= least}) for least in (0.75, 0.9, 1)
    }
    assert all(near[least] >= expected for least, expected in zip(near, NEAR.get(name, (0, 0, 0)), strict=True))
    assert found["questions"] == COUNTS[name]
    if name.startswith("aime"):
        assert not found["pairs"]
    assert all(pair["dropped"] for pair in found["pairs"])


def test_no_kept_question_is_near_a_benchmark_question(dapo, benchmarks):
    """Checked with difflib itself, for kept questions that share ten consecutive tokens with a benchmark question."""

    def runs(words):
        return {tuple(words[i : i + 10]) for i in range(len(words) - 9)}

    asked = [tokens(row["problem"]) for name in NEAR for row in lines(benchmarks / f"{name}.jsonl")]
    holders: dict[tuple, set[int]] = {}
    for i, words in enumerate(asked):
        for run in runs(words):
            holders.setdefault(run, set()).add(i)
    compared = 0
    for row in lines(dapo[0] / "train.jsonl"):
        words = tokens(row["input"])
        for i in {i for run in runs(words) for i in holders.get(run, ())}:
            compared += 1
            assert SequenceMatcher(None, asked[i], words).ratio() < 0.75
    assert compared > 500


@pytest.mark.release
@pytest.mark.parametrize(
    ("source", "file"),
    [("math-train", "math_train7500.jsonl"), ("math-level3to5", "simplerl_math_lv3to5_8k.parquet")],
)
def test_other_training_sets(shared, tmp_path, source, file):
    path = shared / "data" / "train" / file
    assert prepare_train.main(["--source", source, "--input", str(path), "--output-dir", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["known_as"] and report["rows_out"] > 6000
    assert report["dropped"]["empty_answer"]["count"] == 2


@pytest.mark.parametrize("name", COUNTS)
def test_benchmarks_are_whole_and_known(benchmarks, name):
    rows = lines(benchmarks / f"{name}.jsonl")
    assert len(rows) == COUNTS[name] == len({row["id"] for row in rows})
    assert json.loads((benchmarks / "report.json").read_text())["benchmarks"][name]["known_as"]
    if name.startswith(("aime", "amc")):
        assert all(row["answer"].lstrip("-").isdigit() and row["answer"] == str(int(row["answer"])) for row in rows)


def test_rewritten_golds_are_the_same_answers(benchmarks):
    for name, found in json.loads((benchmarks / "report.json").read_text())["benchmarks"].items():
        for gold in found["rewritten_golds"]:
            assert verify(f"\\boxed{{{gold['to']}}}", gold["from"]).correct, (name, gold)
            assert verify(f"\\boxed{{{gold['from']}}}", gold["to"]).correct, (name, gold)


def test_the_raw_form_gives_the_same_questions_and_golds(shared, benchmarks, tmp_path):
    argv = ["--output-dir", str(tmp_path), "--input-dir", str(shared / "data" / "benchmarks" / "raw")]
    assert prepare_benchmarks.main(argv) == 0
    assert json.loads((tmp_path / "report.json").read_text())["absent"] == ["amc83"]
    own = ("id", "problem", "answer", "datasource")
    for name in COUNTS.keys() - {"amc83"}:
        raw, keyed = lines(tmp_path / f"{name}.jsonl"), lines(benchmarks / f"{name}.jsonl")
        assert [[row[k] for k in own] for row in raw] == [[row[k] for k in own] for row in keyed]


def test_all_of_them_for_evaluation_inside_training(benchmarks):
    rows = lines(benchmarks / "eval_all.jsonl")
    assert len(rows) == sum(COUNTS.values()) and {row["datasource"] for row in rows} == COUNTS.keys()
    assert rows[0].keys() == {"id", "input", "label", "datasource"}


def test_pinned_copies_are_those_that_were_seen(benchmarks):
    """Every pinned hash belongs to a copy in the shared folder."""
    report = json.loads((benchmarks / "report.json").read_text())["benchmarks"]
    for name, source in sources.load(sources.BENCHMARKS).items():
        assert set(source.known) == ({report[name]["content_sha256"]} if name in report else set())
