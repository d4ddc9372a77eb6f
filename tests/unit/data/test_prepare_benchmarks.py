"""The benchmarks' command on small sources: forms, golds, ids, bad input."""

import csv
import json
import math
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data import prepare_benchmarks, sources
from data.source_files import open_file
from openrlhf_mel.errors import UserError

AIME = [{"id": 60 + i, "problem": f"Find {i}+{i}.", "answer": f"{2 * i:03d}", "url": "u"} for i in range(30)]
KNOWN = sources.load(sources.BENCHMARKS)


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prepare(tmp_path, capsys):
    def run(*flags, out="out"):
        argv = ["--output-dir", str(tmp_path / out), "--input-dir", str(tmp_path / "in"), *flags]
        return prepare_benchmarks.main(argv), capsys.readouterr().err, tmp_path / out

    return run


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes a file of benchmarks with the user's own entry `mine`."""

    def write(**entry):
        path = tmp_path / "benchmarks.yaml"
        path.write_text(
            yaml.safe_dump({"mine": {"about": "my own", "forms": [{"question": "q", "answer": "a"}]} | entry})
        )
        monkeypatch.setattr(sources, "BENCHMARKS", path)

    return write


def test_a_benchmark_with_its_golds_in_one_form(prepare, tmp_path):
    jsonl(tmp_path / "in" / "aime24__somewhere__test.jsonl", AIME)
    code, err, out = prepare()
    assert code == 0 and "amc23: no file for it in --input-dir, left out" in err
    rows = lines(out / "aime24.jsonl")
    assert [(row["problem"], row["answer"]) for row in rows] == [
        (row["problem"], str(2 * i)) for i, row in enumerate(AIME)
    ]
    assert rows[3] | {"id": ""} == {
        "id": "", "problem": "Find 3+3.", "answer": "6", "datasource": "aime24",
        "source_id": 63, "source_answer": "006", "url": "u",
    }  # fmt: skip
    assert len({row["id"] for row in rows}) == 30 and all(row["id"].startswith("aime24-") for row in rows)
    report = json.loads((out / "report.json").read_text())
    assert len(report["benchmarks"]["aime24"]["rewritten_golds"]) == 30 and "math500" in report["absent"]
    assert lines(out / "eval_all.jsonl")[3] == {
        "id": rows[3]["id"], "input": "Find 3+3.", "label": "6", "datasource": "aime24"
    }  # fmt: skip


def test_only_asks_for_files_that_must_be_there(prepare, tmp_path):
    jsonl(tmp_path / "in" / "aime24.jsonl", AIME)
    assert prepare("--only", "aime24")[0] == 0
    code, err, out = prepare("--only", "aime24,amc23", out="other")
    assert code == 2 and "nothing for amc23; pass --input-dir with" in err and not out.exists()
    assert "--only: found 'amc', expected some of aime24" in prepare("--only", "amc")[1]


def test_the_same_bytes_on_every_run(prepare, tmp_path):
    jsonl(tmp_path / "in" / "aime24.jsonl", AIME)
    (_, _, first), (_, _, second) = prepare(out="first"), prepare(out="second")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_a_later_run_adds_to_the_folder(prepare, own, tmp_path):
    """An earlier run's files stay, also in the merged file and the manifest, unless changed since."""
    jsonl(tmp_path / "in" / "aime24.jsonl", AIME)
    _, _, out = prepare()
    first = (out / "aime24.jsonl").read_bytes()
    own()
    jsonl(tmp_path / "in" / "mine.jsonl", [{"q": "What is 1+1?", "a": "2"}])
    assert prepare("--only", "mine")[0] == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert (out / "aime24.jsonl").read_bytes() == first and "aime24.jsonl" in manifest["outputs"]
    assert [row["datasource"] for row in lines(out / "eval_all.jsonl")] == ["mine"] + ["aime24"] * 30
    assert json.loads((out / "report.json").read_text())["benchmarks"].keys() == {"mine", "aime24"}
    (out / "aime24.jsonl").write_text('{"id": "changed"}\n')
    prepare("--only", "mine")
    assert len(lines(out / "eval_all.jsonl")) == 1


def test_ids_and_content_do_not_depend_on_the_order(tmp_path):
    source = KNOWN["aime24"]
    there = prepare_benchmarks.prepare(open_file(jsonl(tmp_path / "a.jsonl", AIME)), source)
    back = prepare_benchmarks.prepare(open_file(jsonl(tmp_path / "b.jsonl", AIME[::-1])), source)
    assert {row["id"]: row["problem"] for row in there.rows} == {row["id"]: row["problem"] for row in back.rows}
    assert there.content_sha256 == back.content_sha256


def test_repeated_questions_get_ids_of_their_own(prepare, tmp_path):
    jsonl(tmp_path / "in" / "aime24.jsonl", [*AIME[:29], AIME[0]])
    _, _, out = prepare()
    assert len({row["id"] for row in lines(out / "aime24.jsonl")}) == 30
    assert json.loads((out / "report.json").read_text())["benchmarks"]["aime24"]["repeated"] == 1


def test_units_and_tolerances(tmp_path):
    rows = [
        {"question": f"q{i}", "final_answer": [gold], "unit": unit, "error": error}
        for i, (gold, unit, error) in enumerate(
            [("4.2", "%", "1e-1"), ("$69$,$84$", None, None), *[("1", "", "")] * 672]
        )
    ]
    found = prepare_benchmarks.prepare(open_file(jsonl(tmp_path / "o.jsonl", rows)), KNOWN["olympiadbench"]).rows
    assert found[0]["answer"] == "4.2" and found[0]["unit"] == "%" and found[0]["tolerance"] == 0.1
    assert found[1]["answer"] == "69,84" and "unit" not in found[1] and "tolerance" not in found[1]
    for error in ("about one", "nan", -3, True):
        rows[0]["error"] = error
        with pytest.raises(UserError, match=rf"o.jsonl, line 1: 'error': found {error!r}, expected a number"):
            prepare_benchmarks.prepare(open_file(jsonl(tmp_path / "o.jsonl", rows)), KNOWN["olympiadbench"])


def test_everything_that_an_entry_may_say(tmp_path):
    """Covers nested columns, conversations, a selection, and a prefix and suffix."""
    source = sources.Source(
        "mine", (sources.Form("m.q", "m.a", where={"lang": ["en"]}),), prefix="Solve: ", suffix=" Box it."
    )
    chat = [{"role": "user", "content": "Solve: What is 1+1? Box it."}]
    rows = [{"m": {"q": chat, "a": 2}, "lang": "en"}, {"m": {"q": "Was ist 1+1?", "a": 2}, "lang": "de"}]
    [found] = prepare_benchmarks.prepare(open_file(jsonl(tmp_path / "mine.jsonl", rows)), source).rows
    assert (found["problem"], found["answer"], found["lang"]) == ("What is 1+1?", "2", "en")


def test_what_json_cannot_hold_is_left_out(tmp_path):
    rows = [
        {"problem": f"Find {i}.", "answer": str(i), "image": b"\x89PNG", "day": date(2024, 1, 2), "score": math.nan}
        for i in range(30)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "aime24.parquet")
    found = prepare_benchmarks.prepare(open_file(tmp_path / "aime24.parquet"), KNOWN["aime24"]).rows
    assert found[3].keys() == {"id", "problem", "answer", "datasource", "day"} and found[3]["day"] == "2024-01-02"


def test_a_benchmark_of_a_users_own(prepare, own, tmp_path):
    own()
    jsonl(tmp_path / "in" / "mine.jsonl", [{"q": "What is 1+1?", "a": 2.0}])
    code, err, out = prepare()
    assert code == 0 and "content is none" not in err
    assert lines(out / "mine.jsonl")[0]["answer"] == "2"


def test_byte_order_marks_of_an_entry_and_its_file(prepare, own, tmp_path):
    own()
    sources.BENCHMARKS.write_text(sources.BENCHMARKS.read_text(), encoding="utf-8-sig")
    path = jsonl(tmp_path / "in" / "mine.jsonl", [{"q": "What is 1+1?", "a": "2"}])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    code, _, out = prepare()
    assert code == 0 and lines(out / "mine.jsonl")[0]["problem"] == "What is 1+1?"


def test_conversations_stored_as_text_and_invisible_characters(prepare, own, tmp_path):
    own()
    chat = [{"role": "user", "content": "What is\u200b 1+1?"}]
    rows = [
        {"q": repr(chat), "a": "\ufeff2"},
        {"q": json.dumps(chat), "a": "2\u200b"},
        {"q": "[1] x", "a": "1\u00a0000"},
    ]
    jsonl(tmp_path / "in" / "mine.jsonl", rows)
    code, _, out = prepare()
    assert code == 0
    found = [(row["problem"], row["answer"]) for row in lines(out / "mine.jsonl")]
    assert found == [("What is 1+1?", "2"), ("What is 1+1?", "2"), ("[1] x", "1\u00a0000")]


BAD = {
    "half a conversation": ([{"problem": "[{'role': 'user', 'co", "answer": "1"}], "line 1: 'problem': found \"[{'role': 'user', 'co\", which begins"),
    "two messages": ([{"problem": '[{"role": "user"}, {"role": "user"}]', "answer": "1"}], "line 1: 'problem': found [{'role': 'user'}, {"),
    "nothing to see": ([{"problem": "\u200b", "answer": "1"}], "line 1: 'problem': found"),
    "an answer of nothing to see": ([{"problem": "p", "answer": "\u200b"}], "line 1: 'answer': no answer"),
    "too few": ([AIME[0]], "aime24 has 30 questions, found 1"),
    "no answer": ([*AIME[:29], {"problem": "p", "answer": None}], "line 30: 'answer': no answer"),
    "no column": ([{"x": 1}], "no known columns of aime24; found x; expected problem + answer"),
    "no column later": ([*AIME[:29], {"problem": "p"}], "line 30: no column 'answer'"),
    "a wrong type": ([*AIME[:29], {"problem": "p", "answer": {}}], "line 30: 'answer': found {} (dict)"),
    "no question": ([{"problem": " ", "answer": "1"}], "line 1: 'problem': found ' ', expected the question's text"),
    "a gold that a float has rounded": (
        [*AIME[:29], {"problem": "p", "answer": "105263157894736848"}], "line 30: above 2^53"
    ),
    "a gold that cannot be read": (
        [*AIME[:29], {"problem": "p", "answer": "\\frac{1}{"}], "1 reference answers cannot be verified"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "message"), BAD.values(), ids=BAD)
def test_bad_input(prepare, tmp_path, rows, message):
    jsonl(tmp_path / "in" / "aime24.jsonl", rows)
    code, err, out = prepare()
    assert code == 2 and message in err and "Traceback" not in err and not out.exists()


def test_which_file(prepare, tmp_path):
    assert "no such folder" in prepare()[1]
    (tmp_path / "in").mkdir()
    assert "nothing for aime24, aime25" in prepare()[1]
    for name in ("aime24__a.jsonl", "aime24__b.jsonl"):
        jsonl(tmp_path / "in" / name, AIME)
    assert "several files for aime24: aime24__a.jsonl, aime24__b.jsonl; keep one" in prepare()[1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"form": []}, "mine: unknown key 'form', expected forms .needed., about"),
        ({"forms": [{"question": "q"}]}, "mine: forms: no 'answer', expected question"),
        (
            {"forms": [{"question": "q", "answer": "a", "read": "eval"}]},
            "mine: forms: read: found 'eval', expected one of plain, boxed",
        ),
        ({"hub": {"repo": "a/b"}}, "mine: hub: no 'split'"),
        ({"forms": 3}, "mine: forms: found 3, expected a list"),
        ({"forms": [{"question": 1, "answer": "a"}]}, "mine: forms: question: found 1, expected the name of a column"),
        ({"forms": [{"question": "q", "answer": "a", "where": ["x"]}]}, "mine: forms: where: found"),
        ({"known": ["x"]}, "mine: known: found"),
    ],
)
def test_a_faulty_entry(own, capsys, entry, message):
    own(**entry)
    with pytest.raises(UserError, match=rf"benchmarks.yaml: {message}"):
        sources.load(sources.BENCHMARKS)
    assert prepare_benchmarks.main(["--help"]) == 2
    assert "error: " in capsys.readouterr().err


def test_shipped_files_load():
    usual = [name for name, source in KNOWN.items() if not source.on_request]
    assert usual == ["aime24", "aime25", "amc23", "math500", "olympiadbench", "minerva", "gsm8k", "amc83"]
    assert [*sources.load(sources.TRAINING)] == ["dapo-math-17k", "math-level3to5", "math-train", "gsm8k-train"]
    for source in (*KNOWN.values(), *sources.load(sources.TRAINING).values()):
        assert source.hub and Path(source.hub.file).suffix in (".jsonl", ".parquet", ".csv")


def test_sets_that_are_prepared_by_name_alone(prepare, tmp_path):
    """The default stays what it was."""
    for name in ("aime26", "hmmt_feb26"):
        rows = [{"problem_idx": i, "problem": f"Find {i}+{i}.", "answer": 2 * i} for i in range(33)]
        jsonl(tmp_path / "in" / f"{name}.jsonl", rows[: KNOWN[name].questions[0]])
    jsonl(tmp_path / "in" / "aime24.jsonl", AIME)
    code, err, out = prepare()
    assert code == 0 and "aime26" not in err and not (out / "aime26.jsonl").exists()
    code, err, out = prepare("--only", "aime26,hmmt_feb26")
    assert code == 0, err
    assert [(row["answer"], row["problem_idx"]) for row in lines(out / "aime26.jsonl")][:3] == [
        ("0", 0),
        ("2", 1),
        ("4", 2),
    ]
    assert len(lines(out / "hmmt_feb26.jsonl")) == 33 and (out / "aime24.jsonl").exists()


@pytest.mark.parametrize("name", [name for name, source in KNOWN.items() if source.on_request])
def test_every_set_by_name_has_licence_date_and_number_of_questions(name):
    source = KNOWN[name]
    assert source.license and source.published and source.hub and len(source.questions) == 1
    assert not source.known, "nobody has seen its file"


def test_a_choice_from_right_and_wrong_answers_in_a_csv(prepare, tmp_path):
    """In the form of GPQA's file, with other text."""
    columns = ["Question", "Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)), "Explanation"]
    rows = [columns] + [
        [f"Which, of\n{i}?", f"right {i}", f"{i} a", f'{i} "b"', f"{i}, c", "because"] for i in range(198)
    ]
    path = tmp_path / "in" / "gpqa_diamond.csv"
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    code, err, out = prepare("--only", "gpqa_diamond")
    assert code == 0, err
    found = lines(out / "gpqa_diamond.jsonl")
    assert len(found) == 198 and {row["scorer"] for row in found} == {"choice"}
    for i, row in enumerate(found):
        assert row["problem"].startswith(f"Which, of\n{i}?\n\nA) ") and f"{row['answer']}) right {i}" in row["problem"]
        assert row["Explanation"] == "because" and not any(name.startswith("Incorrect") for name in row)
    assert len({row["answer"] for row in found}) == 4
    assert json.loads((out / "report.json").read_text())["benchmarks"]["gpqa_diamond"]["options_shuffled_by"] == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"published": "soon"}, "published: found 'soon', expected YYYY-MM-DD"),
        (
            {"forms": [{"question": "q", "answer": "a", "options": "b"}]},
            "options: found 'b', expected a list of columns",
        ),
    ],
)
def test_entries_with_bad_dates_and_options(own, prepare, entry, message):
    own(**entry)
    code, err, _ = prepare("--only", "mine")
    assert code == 2 and message in err
