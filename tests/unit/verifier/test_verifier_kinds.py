"""Kinds of answers that were once graded wrongly, with near misses: rows of this repository and of the shared data."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrlhf_mel.verifier import Verifier

pytestmark = pytest.mark.timeout(120)

ROWS = Path(__file__).with_name("verifier_kinds.jsonl")
FAULTS = Path(os.environ.get("MEL_SHARED", Path(__file__).parents[3].parent / "shared")) / "data/faults/turn2.jsonl"


def own_rows() -> list[tuple[str, str, str, str]]:
    with ROWS.open(encoding="utf-8") as lines:
        return [(row["kind"], row["response"], row["answer"], row["expected"]) for row in map(json.loads, lines)]


def shared_rows() -> list[tuple[str, str, str, str]]:
    """Return the rows of the areas "grading: ..."; test_fault_rows.py has the others."""
    if not FAULTS.is_file():
        return []
    with FAULTS.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["area"].startswith("grading: ")]
    return [
        (row["area"].removeprefix("grading: "), row["input"]["response"], row["input"]["answer"], row["expected"])
        for row in rows
    ]


def by_kind(rows: list[tuple[str, str, str, str]]) -> list:
    kinds = sorted({row[0] for row in rows})
    return [pytest.param([row[1:] for row in rows if row[0] == kind], id=kind) for kind in kinds]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=2, timeout_s=20) as verifier:
        yield verifier


def assert_expected(verifier: Verifier, rows: list[tuple[str, str, str]]) -> None:
    verdicts = verifier.verify_many([(response, answer) for response, answer, _ in rows])
    differ = [(*row, verdict.status) for row, verdict in zip(rows, verdicts, strict=True) if verdict.status != row[2]]
    assert not differ, differ


@pytest.mark.parametrize("rows", by_kind(own_rows()))
def test_kind(verifier: Verifier, rows: list[tuple[str, str, str]]) -> None:
    assert len(rows) >= 10
    assert_expected(verifier, rows)


@pytest.mark.skipif(not FAULTS.is_file(), reason=f"no test data at {FAULTS}; set MEL_SHARED to the folder above data")
@pytest.mark.parametrize("rows", by_kind(shared_rows()))
def test_kind_of_the_shared_rows(verifier: Verifier, rows: list[tuple[str, str, str]]) -> None:
    assert_expected(verifier, rows)
