"""Shared fault rows that are no answers to grade: data rows are tested here; a table names the tests of other kinds."""

import json
import os
import re
from pathlib import Path

import pytest

from data.golds import normalise
from openrlhf_mel.conversation import user_message

TESTS = Path(__file__).parents[2]
FAULTS = Path(os.environ.get("MEL_SHARED", TESTS.parents[1] / "shared")) / "data/faults/turn2.jsonl"
pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.skipif(not FAULTS.is_file(), reason=f"no {FAULTS}; set MEL_SHARED to the folder above data"),
]

CONVERSATION, INVISIBLE = "data: F18 a conversation written as text", "data: F12 invisible characters in answers"
# kind -> the tests of its rows, which are only descriptions
ELSEWHERE = {
    "slurm: F15 variables of the job that submits": (
        ("slurm/test_leftovers.py", "test_what_another_job_has_left"),
        ("slurm/test_leftovers.py", "test_submitted_by_a_real_job"),
        ("slurm/test_leftovers.py", "test_what_is_the_jobs_own_stays"),
    ),
    "slurm: F16 the id of another job": (
        ("slurm/test_leftovers.py", "test_an_array_that_submits"),
        ("slurm/test_leftovers.py", "test_what_another_job_has_left"),
    ),
    "verifier command: F17 a byte order mark": (("unit/verifier/test_verifier_cli.py", "test_byte_order_marks"),),
    "preflight: F19 the end of a turn is no end token": (
        ("unit/test_turns.py", "test_both_tokens_are_named"),
        ("unit/test_turns.py", "test_preflight_warns_where_the_template_is_used"),
    ),
    "preflight: words": (("unit/data/test_splits.py", "test_a_split_that_is_not_there"),),
}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    with FAULTS.open(encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if not row["area"].startswith("grading: ")]


def test_a_conversation_written_as_text(rows: list[dict]) -> None:
    questions = [row["input"]["q"] for row in rows if row["area"] == CONVERSATION]
    assert questions
    assert {user_message(question) for question in questions} == {"How many edges has a cube?"}


def test_invisible_characters_in_answers(rows: list[dict]) -> None:
    golds = [row["input"]["a"] for row in rows if row["area"] == INVISIBLE]
    assert golds
    assert {normalise(gold) for gold in golds} == {"12"}


def test_every_other_kind_has_its_tests(rows: list[dict]) -> None:
    assert {row["area"] for row in rows} == {*ELSEWHERE, CONVERSATION, INVISIBLE}
    for tests in ELSEWHERE.values():
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), (file, name)
