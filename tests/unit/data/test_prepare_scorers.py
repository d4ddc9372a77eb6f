"""Preparation by scorer: golds of `choice` and user scorers; `math` refuses programs, else it is as before."""

import json

import pytest
import yaml
from preparation_runs import GOOD, jsonl, lines, reasons, runner

from data import prepare_benchmarks, sources
from openrlhf_mel.verifier import shared_verifier

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def prepare(tmp_path, capsys):
    return runner(tmp_path, capsys)


def asked(name: str, *options: str) -> str:
    return f"Where did {name} live?\n" + "\n".join(
        f"{key}. {text}" for key, text in zip("ABCDE", options, strict=False)
    )


def test_a_training_set_of_choices(prepare):
    rows = [
        (asked("Ada", "London", "Paris"), "A"),
        (asked("Ada", "London", "Paris"), "London"),  # the same answer, written differently
        (asked("Bertrand", "London", "Paris"), "B"),
        (asked("Bertrand", "London", "Paris"), "A"),  # a different answer
        (asked("Carl", "Kassel", "Bonn"), "Rome"),  # none of the options
        (asked("Dora", "Kassel", "Bonn"), "C"),
        (asked("Emmy", "Kassel", "Bonn"), r"\boxed{(B)}"),
        ("Where did Felix live?", "B"),
        ("Where did Gottfried live?", "Hanover"),  # the question has no options
    ]
    code, _, out = prepare(rows, "--scorer", "choice")
    assert code == 0
    written = lines(out / "train.jsonl")
    assert {row["scorer"] for row in written} == {"choice"}
    kept = {row["input"].split()[2]: row["label"] for row in written}
    assert kept.pop("Ada") in ("A", "London") and kept == {"Emmy": "(B)", "Felix": "B"}
    assert reasons(out) == {"unverifiable_answer": 3, "conflicting_answers": 2, "duplicate": 1}
    dropped = [row for row in lines(out / "dropped.jsonl") if row["reason"] == "unverifiable_answer"]
    assert any("exactly one option" in row["detail"] for row in dropped)
    assert json.loads((out / "report.json").read_text())["scorer"] == "choice"
    assert json.loads((out / "manifest.json").read_text())["options"]["scorer"] == "choice"


def test_mathematics_has_no_column_and_no_gold_that_is_a_program(prepare):
    rows = [*GOOD, ("Write the identity.", "def f(x): return x"), ("Print one.", "print(1)")]
    code, _, out = prepare(rows)
    assert code == 0 and reasons(out) == {"unverifiable_answer": 2}
    assert [row.keys() for row in lines(out / "train.jsonl")] == [{"id", "input", "label", "datasource"}] * len(GOOD)
    report = json.loads((out / "report.json").read_text())
    assert "is no mathematics (return)" in json.dumps(report["dropped"]["unverifiable_answer"]["examples"])


def test_a_training_set_of_ones_own_scorer(prepare, tmp_path, monkeypatch):
    (tmp_path / "my_words.py").write_text(
        "def same(answer, gold, question):\n    return gold != 'bad' and answer == gold\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shared_verifier().close()  # workers keep the import paths from their start
    rows = [("Say yes.", "yes"), ("Say bad.", "bad"), ("Say 027.", "027")]
    code, _, out = prepare(rows, "--scorer", "my_words:same")
    assert code == 0 and reasons(out) == {"unverifiable_answer": 1}
    written = {row["label"]: row["scorer"] for row in lines(out / "train.jsonl")}
    assert written == {"yes": "my_words:same", "027": "my_words:same"}  # only `math` would rewrite 027


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--scorer", "chioce"), "--scorer: scorer 'chioce': expected math, choice, or your own"),
        (("--scorer", "not_there_at_all:f"), "scorer not_there_at_all:f: cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_scorer_that_cannot_be_used(prepare, flags, message):
    code, err, out = prepare(GOOD, *flags)
    assert code == 2 and message in err and not (out / "train.jsonl").exists()


def test_a_scorer_is_for_ones_own_source(prepare, tmp_path):
    path = jsonl(tmp_path / "dapo.jsonl", [{"prompt": "What is 1+1?", "solution": "2"}])
    assert "--scorer: is for --source custom" in prepare(path, "--scorer", "choice", source="dapo-math-17k")[1]


@pytest.fixture
def benchmark(tmp_path, monkeypatch, capsys):
    """Return a function that prepares benchmarks from entries and rows: exit code, stderr, output folder."""

    def run(entries, **rows):
        path = tmp_path / "benchmarks.yaml"
        form = {"forms": [{"question": "q", "answer": "a"}]}
        path.write_text(yaml.safe_dump({name: form | entry for name, entry in entries.items()}))
        monkeypatch.setattr(sources, "BENCHMARKS", path)
        for name, own in rows.items():
            jsonl(tmp_path / "in" / f"{name}.jsonl", [{"q": q, "a": a} for q, a in own])
        argv = ["--input-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path / "out")]
        return prepare_benchmarks.main(argv), capsys.readouterr().err, tmp_path / "out"

    return run


def test_benchmarks_of_several_scorers(benchmark):
    code, _, out = benchmark(
        {"sums": {}, "cities": {"answer": "choice"}},
        sums=[("1+1?", "2")],
        cities=[(asked("Ada", "London", "Paris"), "a")],
    )
    assert code == 0
    assert lines(out / "sums.jsonl")[0].keys() == {"id", "problem", "answer", "datasource"}
    assert lines(out / "cities.jsonl")[0]["scorer"] == "choice"
    # all rows of one file have the same columns
    assert [(row["datasource"], row["scorer"]) for row in lines(out / "eval_all.jsonl")] == [
        ("cities", "choice"), ("sums", "math")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "answer", "message"),
    [
        (
            {"answer": "choice"},
            "Rome",
            "line 1: found 'Rome', expected a letter from A to J or the text of exactly one option",
        ),
        ({}, "def f(x): return x", "line 1: found 'def f(x): return x', which is no mathematics"),
        ({"answer": "nobody:f"}, "A", "scorer nobody:f: cannot be imported"),
        ({"answer": "chioce"}, "A", "benchmarks.yaml: mine: answer: scorer 'chioce': expected math, choice"),
        ({"answer": 3}, "A", "benchmarks.yaml: mine: answer: scorer 3"),
    ],
)
def test_a_gold_that_its_scorer_does_not_find_right_is_refused(benchmark, entry, answer, message):
    code, err, out = benchmark({"mine": entry}, mine=[(asked("Ada", "London", "Paris"), answer)])
    assert code == 2 and message in err and not out.exists()
