"""The training set's command on small sources: which rows are kept or dropped and why, and bad input."""

import hashlib
import json
import random
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparation_runs import GOOD, jsonl, lines, reasons, runner

from data import prepare_train, sources
from data.cleaning import STEPS

REPO = Path(__file__).resolve().parents[3]
DAPO = sources.load(sources.TRAINING)["dapo-math-17k"]
# (question, answer) and their fate under the defaults
ROWS = [
    *GOOD,
    (" Find the sum of $2 + 4$. \n", "6"),  # equal to the first under the key
    ("Find the sum of $2+4$.", "6.0"),  # the answer is written differently: an exact copy of the first
    ("Which $x$ solves $x=1$?", "1"),
    ("Which $x$\nsolves $x = 1$?", "2"),  # both are dropped: either may be right
    ("What is $\\frac{1}{2}$?", "0.5"),  # equal answers, so one of them is kept
    ("What is $\\dfrac{1}{2}$ ?", "\\frac{1}{2}"),
    ("How large is it?", "105263157894736848"),
    ("How large is nothing?", ""),
    ("Is it readable?", "\\frac{1}{"),
    ("", "7"),
    ("As shown in the diagram, how long is $AB$?", "3"),
    ("求 $x$ 的值，其中 $x=3$。", "3"),
    ("How many apples do 12 children eat on 3 days if each eats 2 a day?", "72"),
]
BENCHMARK = [
    {"id": "b-1", "problem": "How many apples do 13 children eat on 3 days if each eats 2 a day?", "answer": "78"}
]


@pytest.fixture
def prepare(tmp_path, capsys):
    return runner(tmp_path, capsys)


@pytest.fixture
def benchmarks(tmp_path):
    jsonl(tmp_path / "benchmarks" / "b.jsonl", BENCHMARK)
    jsonl(tmp_path / "benchmarks" / "eval_all.jsonl", [{"input": "not looked at"}])
    return ("--benchmarks-dir", str(tmp_path / "benchmarks"))


def test_every_row_is_accounted_for(prepare, benchmarks):
    code, _, out = prepare(ROWS, *benchmarks)
    assert code == 0
    report = json.loads((out / "report.json").read_text())
    assert reasons(out) == {
        "exact_duplicate": 1, "empty_question": 1, "empty_answer": 1, "conflicting_answers": 2, "float_damage": 1,
        "unverifiable_answer": 1, "contaminated": 1, "figure": 1, "duplicate": 2,
    }  # fmt: skip
    assert report["rows_in"] == len(ROWS) == report["rows_out"] + sum(reasons(out).values())
    rows = lines(out / "train.jsonl")
    assert {(row["input"], row["label"]) for row in rows} == {
        *GOOD, ("What is $\\frac{1}{2}$?", "0.5"), ("求 $x$ 的值，其中 $x=3$。", "3")
    }  # fmt: skip
    assert all(row.keys() == {"id", "input", "label", "datasource"} and row["datasource"] == "custom" for row in rows)
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
    float_damage = report["dropped"]["float_damage"]["examples"]
    assert [(e["answer"], e["rows"]) for e in float_damage] == [("105263157894736848", [11])]


def test_provenance_names_the_rows_of_every_copy(prepare):
    _, _, out = prepare(ROWS)
    rows = {row["input"]: row["id"] for row in lines(out / "train.jsonl")}
    came_from = {row["id"]: (row["rows"], row["copies"]) for row in lines(out / "provenance.jsonl")}
    assert came_from.keys() == set(rows.values())
    assert came_from[rows[GOOD[0][0]]] == ([1, 6], [5])
    assert came_from[rows["What is $\\frac{1}{2}$?"]] == ([9], [10])


def test_everything_that_was_dropped_is_listed(prepare, benchmarks):
    _, _, out = prepare(ROWS, *benchmarks)
    rows = lines(out / "dropped.jsonl")
    counted = {reason: count for reason, count in reasons(out).items() if reason != "exact_duplicate"}
    assert Counter(row["reason"] for row in rows) == counted
    assert {(row["question"], row["answer"], *row["rows"]) for row in rows} >= {
        ("How large is it?", "105263157894736848", 11), ("Which $x$ solves $x=1$?", "1", 7)
    }  # fmt: skip


def test_contamination_is_listed(prepare, benchmarks):
    _, _, out = prepare(ROWS, *benchmarks)
    [pair] = json.loads((out / "report.json").read_text())["contamination"]["b"]["pairs"]
    assert pair["benchmark_id"] == "b-1" and pair["question"] == ROWS[-1][0] and pair["rows"] == [len(ROWS)]
    assert pair["dropped"] and pair["reason"] == "contaminated"
    assert pair["similarity"] == pytest.approx(2 * 15 / 32, abs=1e-4)
    _, _, out = prepare(ROWS, *benchmarks, "--max-similarity", "0.95")
    report = json.loads((out / "report.json").read_text())
    assert report["contamination"]["b"]["pairs"] == [] and "contaminated" not in report["dropped"]


def test_copies_of_a_contaminated_question_go_with_it(prepare, benchmarks):
    """Two spellings of one question, of which only one is near enough."""
    question = BENCHMARK[0]["problem"].replace("13", "{1}{4}")
    _, _, out = prepare([(question, "84"), (question.replace(" 3 ", " {3} \\, "), "84"), *GOOD], *benchmarks)
    assert reasons(out)["contaminated"] == 2


def test_without_benchmarks_it_warns(prepare):
    _, err, out = prepare(ROWS)
    assert "pass --benchmarks-dir to decontaminate" in err
    assert json.loads((out / "report.json").read_text())["contamination"] == {}


@pytest.mark.parametrize(
    ("step", "gone"),
    {
        "trim": "", "exact_duplicates": "exact_duplicate", "conflicts": "conflicting_answers", "unusable": "float_damage",
        "decontamination": "contaminated", "language": "other_language", "figures": "figure", "duplicates": "duplicate",
    }.items(),
)  # fmt: skip
def test_each_step_can_be_left_out(prepare, benchmarks, step, gone):
    flags = (*benchmarks, "--languages", "en", "--skip")
    _, _, everything = prepare(ROWS, *flags[:-1], out="everything")
    code, _, out = prepare(ROWS, *flags, step)
    assert code == 0 and (not gone or gone in reasons(everything)) and gone not in reasons(out)
    report = json.loads((out / "report.json").read_text())
    assert report["rows_in"] == report["rows_out"] + sum(reasons(out).values())
    assert len({row["id"] for row in lines(out / "train.jsonl")}) == report["train"]
    assert json.loads((out / "manifest.json").read_text())["options"]["skip"] == [step]


def test_with_every_step_left_out_each_row_stays_as_it_is(prepare):
    rows = [*ROWS, ROWS[0]]
    _, _, out = prepare(rows, "--skip", ",".join(STEPS))
    written = [(row["input"], row["label"]) for row in lines(out / "train.jsonl")]
    assert sorted(written) == sorted((question, answer) for question, answer in rows if question)


def test_languages(prepare):
    _, _, out = prepare(ROWS)
    assert json.loads((out / "report.json").read_text())["languages"] == {"en": 6, "zh": 1}
    _, _, out = prepare(ROWS, "--languages", "zh")
    assert [row["input"] for row in lines(out / "train.jsonl")] == ["求 $x$ 的值，其中 $x=3$。"]


@pytest.mark.parametrize("seed", range(3))
def test_the_sources_order_does_not_matter(prepare, benchmarks, seed):
    shuffled = [*ROWS, *ROWS]
    random.Random(seed).shuffle(shuffled)
    flags = (*benchmarks, "--validation", "2")
    _, _, first = prepare(ROWS, *flags, out="first")
    _, _, second = prepare(shuffled, *flags, out="second")
    for name in ("train.jsonl", "validation.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_same_bytes_on_every_run_and_no_stale_validation(prepare, benchmarks):
    def contents(out):
        return {path.name: path.read_bytes() for path in out.iterdir()}

    _, _, first = prepare(ROWS, *benchmarks, "--validation", "1", out="first")
    _, _, second = prepare(ROWS, *benchmarks, "--validation", "1", out="second")
    assert contents(first) == contents(second)
    prepare(ROWS, *benchmarks, out="first")
    assert "validation.jsonl" not in contents(first)


def test_validation_is_disjoint_and_has_no_near_copy_in_training(prepare):
    similar = [(f"Find the sum of all the numbers that divide {n} and {n + 1}.", str(n)) for n in range(40)]
    _, _, out = prepare([*similar, *GOOD], "--validation", "3")
    held, rest = lines(out / "validation.jsonl"), lines(out / "train.jsonl")
    assert len(held) == 3 and len(held) + len(rest) == 44
    assert {row["input"] for row in held} <= {question for question, _ in GOOD}
    assert not {row["id"] for row in held} & {row["id"] for row in rest}
    code, err, _ = prepare([*similar, *GOOD], "--validation", "30", out="more")
    assert code == 2 and "--validation 30: only 4 of 44 questions have no near copy" in err


def test_both_forms_of_dapo_give_the_same_file(prepare, tmp_path):
    """The unwrapped form, and the published one (rows repeated, wrapped, shuffled). Unwrapping removes whole texts."""
    tricky = [
        ("Solve the following: what is $1+1$? Remember to answer.", "2"),
        ("Remember that $x=3$. Find $x$.\n\nAnswer:", "3"),
        ("step by step: $2+2$", "4"),
    ]
    pairs = [*GOOD, *tricky]

    def rows(text, repeat):
        many = [
            {"prompt": [{"content": text(q), "role": "user"}], "reward_model": {"ground_truth": a}}
            for q, a in pairs * repeat
        ]
        random.Random(0).shuffle(many)
        return pa.Table.from_pylist(many)

    pq.write_table(rows(lambda q: q, 1), tmp_path / "copy.parquet")
    pq.write_table(rows(lambda q: DAPO.prefix + q + DAPO.suffix, 7), tmp_path / "published.parquet")
    _, _, copy = prepare(tmp_path / "copy.parquet", source=DAPO.name, out="copy")
    _, _, published = prepare(tmp_path / "published.parquet", source=DAPO.name, out="published")
    assert (copy / "train.jsonl").read_bytes() == (published / "train.jsonl").read_bytes()
    assert {row["input"] for row in lines(copy / "train.jsonl")} == {question for question, _ in pairs}
    report = json.loads((published / "report.json").read_text())
    assert report["changed"]["unwrapped"] == report["rows_in"] == 7 * len(pairs)


def test_columns_of_a_users_own(prepare, tmp_path):
    pq.write_table(
        pa.Table.from_pylist([{"x": {"q": q}, "sol": f"so \\boxed{{{a}}}"} for q, a in GOOD]), tmp_path / "a.parquet"
    )
    flags = ("--question-column", "x.q", "--answer-column", "sol", "--answer-in", "boxed", "--datasource", "mine")
    code, _, out = prepare(tmp_path / "a.parquet", *flags)
    assert code == 0
    assert {(row["input"], row["label"], row["datasource"]) for row in lines(out / "train.jsonl")} == {
        (*g, "mine") for g in GOOD
    }


def test_levels_are_selected(prepare, tmp_path):
    rows = [{"problem": q, "answer": a, "level": f"Level {n}"} for n, (q, a) in enumerate(GOOD, 2)]
    _, _, out = prepare(jsonl(tmp_path / "math.jsonl", rows), source="math-level3to5")
    assert reasons(out) == {"not_selected": 1} and len(lines(out / "train.jsonl")) == 3


BAD = {
    "a missing column": ([{"question": "q"}], (), "in.jsonl: no known columns of custom; found question; expected question + answer; name yours by --question-column"),
    "a missing column later": ([{"question": "q", "answer": "1"}, {"question": "q"}], (), "in.jsonl, line 2: no column 'answer'"),
    "an answer of the wrong type": ([{"question": "q", "answer": "1"}, {"question": "r", "answer": ["1"]}], (), "in.jsonl, line 2: 'answer': found ['1'] (list), expected a text or a number"),
    "a truth value": ([{"question": "q", "answer": True}], (), "in.jsonl, line 1: 'answer': found True"),
    "a question of the wrong type": ([{"question": 3, "answer": "1"}], (), "in.jsonl, line 1: 'question': found 3, expected a text"),
    "nothing left": ([{"question": "q", "answer": ""}], (), "none of 1 rows is left (empty_answer 1)"),
    "half a UTF-16 pair": ([{"question": "q \ud800", "answer": "1"}], (), "in.jsonl, line 1: holds half of a UTF-16 pair"),
    "an unknown step": ([{"question": "q", "answer": "1"}], ("--skip", "unwarp"), "--skip: found 'unwarp', expected some of unwrap"),
    "an unknown language": ([{"question": "q", "answer": "1"}], ("--languages", "fr"), "--languages: found 'fr'"),
    "a similarity": ([{"question": "q", "answer": "1"}], ("--max-similarity", "75"), "--max-similarity 75.0: expected a number above 0"),
    "a negative number": ([{"question": "q", "answer": "1"}], ("--validation", "-1"), "--validation -1: expected"),
    "no benchmarks": ([{"question": "q", "answer": "1"}], ("--benchmarks-dir", "/nowhere"), "--benchmarks-dir /nowhere: no such folder"),
    "everything held out": ([{"question": "q", "answer": "1"}], ("--validation", "1"), "--validation 1: only 0 of 1"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "flags", "message"), BAD.values(), ids=BAD)
def test_bad_input(prepare, tmp_path, rows, flags, message):
    code, err, out = prepare(jsonl(tmp_path / "in.jsonl", rows), *flags)
    assert code == 2 and message in err
    error = [line for line in err.splitlines() if "error: " in line]
    assert len(error) == 1 and "Traceback" not in err
    assert not out.exists()


def test_benchmarks_of_another_kind(prepare, tmp_path):
    jsonl(tmp_path / "b" / "x.jsonl", [{"problem": "p"}, {"question": "p"}])
    code, err, _ = prepare(ROWS, "--benchmarks-dir", str(tmp_path / "b"))
    assert code == 2 and "x.jsonl, line 2: no question's text under 'problem'" in err
    (tmp_path / "b" / "x.jsonl").unlink()
    assert "no <benchmark>.jsonl in it" in prepare(ROWS, "--benchmarks-dir", str(tmp_path / "b"))[1]


@pytest.mark.parametrize(
    ("rows", "dropped"),
    [
        # equal only under the key (NFKC without white space loses the border between two numbers)
        ([("$\\dfrac{1}{2}$?", "1"), ("$\\frac{1}{2}$?", "2")], 2),
        # equal only as NFKC without white space
        ([("side length 2", "1"), ("sidelength 2", "2")], 2),
        # one in three answers differs
        ([("What is $x$?", "1"), ("What is $ x $?", "1.0"), ("What is $x $?", "2")], 3),
        # a copy known to be damaged does not conflict with a good one
        ([("How large?", "105263157894736842"), ("How large ?", "105263157894736848")], 0),
        ([("How large?", "3"), ("How large ?", "\\frac{1}{")], 0),
        ([("What is $x$?", "\\frac{1}{2}"), ("What is $ x $?", "0.5")], 0),
    ],
)
def test_conflicts(prepare, rows, dropped):
    _, _, out = prepare([*rows, ("Another one: $1+1$", "2")])
    assert reasons(out).get("conflicting_answers", 0) == dropped


def test_which_duplicate_stays_depends_on_content_alone(prepare):
    """These questions have equal length and one key."""
    rows = [("What is $x+1$;", "1"), ("What is $x+1$,", "1"), ('What is $x+1$"', "1")]
    kept = set()
    for i in range(3):
        _, _, out = prepare([*rows[i:], *rows[:i]], out=f"out{i}")
        kept.add((out / "train.jsonl").read_text())
    assert len(kept) == 1


def test_the_manifest_says_what_went_in_and_what_came_out(prepare, benchmarks, tmp_path):
    def sha256(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    _, _, out = prepare(ROWS, *benchmarks, "--validation", "1", "--languages", "en")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"]["file"] == "in.jsonl" and manifest["source"]["sha256"] == sha256(tmp_path / "in.jsonl")
    assert manifest["benchmarks"] == {"b": sha256(tmp_path / "benchmarks" / "b.jsonl")}
    assert manifest["options"] == {
        "skip": [], "languages": ["en"], "max_similarity": 0.75, "validation": 1, "datasource": "custom"
    }  # fmt: skip
    assert manifest["versions"]["math-verify"] and manifest["outputs"].keys() == {
        "train.jsonl", "validation.jsonl", "provenance.jsonl", "dropped.jsonl", "report.json"
    }  # fmt: skip
    assert all(digest == sha256(out / name) for name, digest in manifest["outputs"].items())


def test_the_contents_hash_does_not_depend_on_what_is_skipped(prepare):
    hashes = set()
    for i, flags in enumerate([(), ("--skip", "trim,rewrite,exact_duplicates,duplicates")]):
        _, _, out = prepare(ROWS, *flags, out=f"out{i}")
        hashes.add(json.loads((out / "report.json").read_text())["content_sha256"])
    assert len(hashes) == 1


def test_inputs_are_not_written_over(prepare, benchmarks, tmp_path):
    path = jsonl(tmp_path / "there" / "train.jsonl", [{"question": q, "answer": a} for q, a in GOOD])
    assert "is where --input lies" in prepare(path, out="there")[1]
    assert "is where --benchmarks-dir lies" in prepare(path, *benchmarks, out="benchmarks")[1]


def test_a_folder_in_the_way_changes_nothing(prepare, tmp_path):
    _, _, out = prepare(GOOD)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "train.jsonl").unlink()
    (out / "train.jsonl").mkdir()
    code, err, _ = prepare(ROWS)
    assert code == 2 and "train.jsonl is a folder there" in err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}.items() <= before.items()


def test_half_a_wrapping_is_told(prepare, tmp_path):
    texts = [DAPO.prefix + "What is 1+1?" + DAPO.suffix, "Solve it. What is 2+2?" + DAPO.suffix]
    rows = [{"prompt": text, "solution": "2"} for text in texts]
    code, err, out = prepare(jsonl(tmp_path / "dapo.jsonl", rows), source=DAPO.name)
    assert code == 0 and "warning: 1 rows had only half of the source's wrapping" in err
    assert json.loads((out / "report.json").read_text())["changed"]["unwrapped"] == 1


def test_benchmarks_that_were_not_there_are_named(prepare, benchmarks):
    _, err, out = prepare(ROWS, *benchmarks, "--skip", "decontamination")
    assert "--benchmarks-dir has no aime24, " in err
    [pair] = json.loads((out / "report.json").read_text())["contamination"]["b"]["pairs"]
    assert not pair["dropped"] and pair["benchmark_question"] == BENCHMARK[0]["problem"]


def test_one_training_set_does_not_replace_another(prepare):
    assert prepare(ROWS)[0] == 0
    code, err, out = prepare(ROWS, "--datasource", "other")
    assert code == 2 and "holds the training set custom; choose another folder" in err
    (out / "manifest.json").write_text("{}")
    assert "its manifest.json is none of a training set" in prepare(ROWS)[1]


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        (
            DAPO.name,
            ("--question-column", "q"),
            "--question-column: is for --source custom, found --source dapo-math-17k",
        ),
        ("custom", ("--revision", "main"), "--revision: is for the hub, found --input as well"),
    ],
)
def test_flags_that_would_do_nothing(prepare, source, flags, message):
    code, err, _ = prepare(ROWS, *flags, source=source)
    assert code == 2 and message in err


def test_custom_needs_a_file(capsys, tmp_path):
    assert prepare_train.main(["--source", "custom", "--output-dir", str(tmp_path / "out")]) == 2
    assert "--source custom: needs --input FILE" in capsys.readouterr().err


def test_help_is_for_newcomers(command):
    done = command(sys.executable, "-m", "data.prepare_train", "--help", limit=60)
    assert done.returncode == 0
    assert all(name in done.stdout for name in [*sources.load(sources.TRAINING), "custom", *STEPS])
