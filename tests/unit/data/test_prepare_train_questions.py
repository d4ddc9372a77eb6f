"""Questions in other forms than plain text: conversations and invisible characters."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparation_runs import GOOD, jsonl, lines, reasons, runner

from data import sources

DAPO = sources.load(sources.TRAINING)["dapo-math-17k"]
CONVERSATION = [{"role": "user", "content": "How many edges has a cube?"}]


@pytest.fixture
def prepare(tmp_path, capsys):
    return runner(tmp_path, capsys)


def written(path, question):
    """Write a file of good rows whose last row has this question and the answer 77."""
    rows = [{"question": q, "answer": a} for q, a in [*GOOD, (question, "77")]]
    jsonl(path, rows) if path.suffix == ".jsonl" else pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (json.dumps(CONVERSATION), "How many edges has a cube?"), (repr(CONVERSATION), "How many edges has a cube?"),
        ("[1, 2, 3] is a list of how many?", "[1, 2, 3] is a list of how many?"), ("{1, 2}: its size?", "{1, 2}: its size?"),
        ('[{"role": "user"}] has how many keys?', '[{"role": "user"}] has how many keys?'),
    ],
    ids=range(5),
)  # fmt: skip
def test_a_conversation_stored_as_text(prepare, tmp_path, kind, question, expected):
    path = written(tmp_path / f"in.{kind}", question)
    code, _, out = prepare(path)
    assert code == 0 and [r["input"] for r in lines(out / "train.jsonl") if r["label"] == "77"] == [expected]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("question", "found"),
    [
        (f"array([{CONVERSATION[0]}], dtype=object)", "found \"array([{"), (repr(CONVERSATION)[:-9], "found \"[{'role'"),
        (f"[{CONVERSATION[0]}\n {CONVERSATION[0]}]", "found \"[{'role'"), (repr(CONVERSATION * 2), "found [{'role': 'user'"),
        (json.dumps(CONVERSATION[0]), "found {'role': 'user'"), (json.dumps({"messages": CONVERSATION}), "found {'messages'"),
    ],
    ids=range(6),
)  # fmt: skip
def test_another_conversation_stored_as_text_is_refused(prepare, tmp_path, kind, question, found):
    path = written(tmp_path / f"in.{kind}", question)
    code, err, out = prepare(path)
    place = f"{path}, {'line' if kind == 'jsonl' else 'row'} {len(GOOD) + 1}: 'question': {found}"
    assert code == 2 and place in err and "Traceback" not in err and not out.exists()


def test_invisible_characters_are_taken_out(prepare, tmp_path):
    dapo = f"\ufeff{DAPO.prefix}\u200bWhat is 1+1?{DAPO.suffix}\u200b"
    code, _, out = prepare(jsonl(tmp_path / "dapo.jsonl", [{"prompt": dapo, "solution": "2"}]), source=DAPO.name)
    assert code == 0 and [row["input"] for row in lines(out / "train.jsonl")] == ["What is 1+1?"]
    changed = json.loads((out / "report.json").read_text())["changed"]
    assert (changed["unwrapped"], changed["half_unwrapped"], changed["trimmed"]) == (1, 0, 1)
    rows = [
        ("How many\u200b edges has a cube?", "\ufeff12"),
        ("\u200b", "3"),
        ("Empty?", "\u200b\ufeff"),
        ("چند تا می\u200cشود؟", "5"),
    ]
    code, _, out = prepare(rows, out="own")
    found = {(r["input"], r["label"]) for r in lines(out / "train.jsonl")}
    assert found == {("How many edges has a cube?", "12"), ("چند تا می\u200cشود؟", "5")}
    assert reasons(out) == {"empty_question": 1, "empty_answer": 1}
    code, _, out = prepare(rows[:1], "--skip", "trim,rewrite,unusable", out="skipped")
    assert [(r["input"], r["label"]) for r in lines(out / "train.jsonl")] == rows[:1]


@pytest.mark.parametrize(
    "problem", [json.dumps(CONVERSATION), repr(CONVERSATION), "array([{'role': 'user'}])", " ", 3, None]
)
def test_benchmarks_without_a_questions_text(prepare, tmp_path, problem):
    """If compared as they are, such questions would match none."""
    jsonl(tmp_path / "b" / "x.jsonl", [{"problem": "[1] is how long?"}, {"problem": problem}])
    code, err, _ = prepare(GOOD, "--benchmarks-dir", str(tmp_path / "b"))
    assert code == 2 and "x.jsonl, line 2: no question's text under 'problem'" in err
