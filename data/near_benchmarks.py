"""Prepared benchmarks as decontamination needs them, and which of a source's questions are near theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.cleaning import SourceQuestion
from data.contamination import near_pairs
from data.rows import EVAL_ALL
from data.source_files import JsonLines
from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import question_of
from toolkit.cli import progress
from toolkit.outputs import check_unchanged, recorded_hashes


@dataclass(frozen=True)
class ReferenceBenchmark:
    """The data of a prepared benchmark that decontamination needs."""

    name: str
    sha256: str
    ids: list[str]
    problems: list[str]
    answers: list[str]


def read_benchmarks(folder: Path) -> list[ReferenceBenchmark]:
    """Every benchmark of a folder of prepare_benchmarks.py: `<name>.jsonl` with `problem` (and `id`).

    Raises:
        UserError: no such folder, no benchmark in it, a file that was changed since, or a row without `problem`.
    """
    if not folder.is_dir():
        raise UserError(f"--benchmarks-dir {folder}: no such folder; python -m data.prepare_benchmarks makes one")
    files = sorted(path for path in folder.glob("*.jsonl") if path.name != EVAL_ALL)
    if not files:
        raise UserError(f"--benchmarks-dir {folder}: no <benchmark>.jsonl in it; prepare_benchmarks.py writes them")
    found = []
    recorded = recorded_hashes(folder)
    for path in files:
        rows = JsonLines(path)
        ids, problems, answers = [], [], []
        for number, row in rows.records():
            problem = row.get("problem")
            if problem is None or question_of(problem) != problem:
                raise UserError(
                    f"{rows.place(number)}: no question's text under 'problem'; expected files of prepare_benchmarks.py"
                )
            problems.append(problem)
            ids.append(str(row.get("id", f"{path.stem}-{number}")))
            answers.append(str(row.get("answer", "")))
        check_unchanged(path, rows.origin["sha256"], recorded)
        found.append(ReferenceBenchmark(path.stem, rows.origin["sha256"], ids, problems, answers))
    return found


@dataclass(frozen=True)
class Near:
    """A source's question that is near one of a benchmark's."""

    question: SourceQuestion
    benchmark: str
    benchmark_id: str
    similarity: float


def near(questions: list[SourceQuestion], benchmarks: Sequence[ReferenceBenchmark], least: float) -> list[Near]:
    """The pairs of a question and a benchmark's that are at least so similar (0 to 1), the nearest first."""
    if not benchmarks:
        return []
    by_text: dict[str, list[SourceQuestion]] = {}
    for question in questions:
        by_text.setdefault(question.text, []).append(question)
    texts = list(by_text)
    where = [(b.name, i) for b in benchmarks for i in b.ids]
    with progress("decontamination", len(texts), "questions") as bar:
        pairs = near_pairs([p for b in benchmarks for p in b.problems], texts, least, bar.update)
    found = [
        Near(question, *where[pair.query], pair.similarity) for pair in pairs for question in by_text[texts[pair.text]]
    ]
    return sorted(found, key=lambda n: (-n.similarity, n.benchmark_id, n.question.order))


def report(
    pairs: list[Near], benchmarks: Sequence[ReferenceBenchmark], reasons: dict[SourceQuestion, tuple[str, str | None]]
) -> dict[str, dict[str, Any]]:
    """By benchmark: how many of its questions are near one of the source's, and the pairs."""
    found: dict[str, dict[str, Any]] = {}
    for benchmark in benchmarks:
        own = [pair for pair in pairs if pair.benchmark == benchmark.name]
        asked = {i: (p, a) for i, p, a in zip(benchmark.ids, benchmark.problems, benchmark.answers, strict=True)}
        found[benchmark.name] = {
            "questions": len(benchmark.ids),
            "near": len({pair.benchmark_id for pair in own}),
            "token_equal": len({pair.benchmark_id for pair in own if pair.similarity == 1}),
            "pairs": [
                {
                    "benchmark_id": pair.benchmark_id,
                    "benchmark_question": asked[pair.benchmark_id][0],
                    "benchmark_answer": asked[pair.benchmark_id][1],
                    "rows": sorted(pair.question.rows),
                    "question": pair.question.text,
                    "answer": pair.question.answer,
                    "similarity": round(pair.similarity, 4),
                    "dropped": pair.question in reasons,
                    "reason": reasons.get(pair.question, (None,))[0],
                }
                for pair in own
            ],
        }
    return found
