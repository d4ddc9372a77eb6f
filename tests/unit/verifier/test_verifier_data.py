"""The verifier, compared with public graded answers. Needs the shared data folder."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrlhf_mel.verifier import Verifier

SHARED = Path(os.environ.get("MEL_SHARED", Path(__file__).parents[3].parent / "shared")) / "data"
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not SHARED.is_dir(), reason=f"no test data at {SHARED}; set MEL_SHARED to the folder above data"
    ),
]
BENCHMARKS = {
    **{"aime24": 30, "aime25": 30, "amc23": 40, "amc83": 83},
    **{"math500": 500, "olympiadbench": 675, "minerva": 272, "gsm8k": 1319},
}


def rows(name: str) -> list[dict]:
    with (SHARED / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=2) as verifier:
        yield verifier


def boxed_last_line(completion: str) -> str:
    """Return the solution with the text after its last "A: " put in a box."""
    before, mark, answer = completion.rpartition("A: ")
    return f"{before}\\boxed{{{answer.strip()}}}" if mark else completion


def test_math_answers_of_a_real_model(verifier: Verifier) -> None:
    graded = rows("graded/qwen25math_math100x8.jsonl")
    verdicts = verifier.verify_many([(row["completion"], row["gold"]) for row in graded])
    differ = [(row["id"], v.status) for row, v in zip(graded, verdicts, strict=True) if v.correct != row["expected"]]
    # The label calls the answer 10000 different from the reference answer 10{,}000.
    assert differ == [("72-7", "correct")]


def test_grade_school_answers_of_real_models(verifier: Verifier) -> None:
    graded = rows("graded/openai_gsm8k_solutions_half.jsonl")
    verdicts = verifier.verify_many([(boxed_last_line(row["completion"]), row["gold"]) for row in graded])
    differ = [(row["id"], v.status) for row, v in zip(graded, verdicts, strict=True) if v.correct != row["expected"]]
    assert differ == []


@pytest.mark.slow
def test_lenient_is_math_verify_on_its_own_tests(verifier: Verifier) -> None:
    graded = rows("graded/math_verify_tests.jsonl")
    verdicts = verifier.verify_many([(row["pred"], row["gold"]) for row in graded], "lenient")
    agree = sum(verdict.correct == row["expected"] for row, verdict in zip(graded, verdicts, strict=True))
    assert agree / len(graded) >= 0.967


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_gold_verifies_itself(verifier: Verifier, name: str) -> None:
    golds = [row["answer"] for row in rows(f"benchmarks/{name}.jsonl")]
    assert len(golds) == BENCHMARKS[name]
    assert verifier.check_golds(golds) == {}
    verdicts = verifier.verify_many([(f"\\boxed{{{gold}}}", gold) for gold in golds])
    assert {verdict.status for verdict in verdicts} == {"correct"}


ANCHORS = re.compile(r"\\+f?boxed|final answer|answer is|^\W*(?:the |final )*answer\W", re.IGNORECASE | re.MULTILINE)


def test_truncated_solutions_are_never_correct(verifier: Verifier) -> None:
    """Correct solutions, cut at 50, 70, 90 and 100% of the text before their first anchored form."""
    graded = [row for row in rows("graded/qwen25math_math100x8.jsonl") if row["expected"]]
    pairs = []
    for row in graded:
        anchor = ANCHORS.search(row["completion"])
        assert anchor, row["id"]
        pairs += [(row["completion"][: int(anchor.start() * share)], row["gold"]) for share in (0.5, 0.7, 0.9, 1)]
    assert len(pairs) > 2000
    assert {verdict.status for verdict in verifier.verify_many(pairs)} == {"no_answer"}


def test_solutions_cut_before_their_first_box_are_never_correct(verifier: Verifier) -> None:
    graded = [row for row in rows("graded/qwen25math_math100x8.jsonl") if row["expected"]]
    pairs = []
    for row in graded:
        box = row["completion"].find("\\boxed")
        pairs += [(row["completion"][: int(box * share)], row["gold"]) for share in (0.5, 0.7, 0.9, 1)]
    assert not [p for p, verdict in zip(pairs, verifier.verify_many(pairs), strict=True) if verdict.correct]
