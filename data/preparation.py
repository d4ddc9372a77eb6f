"""A training set from a source's rows: read, clean, decontaminate, split."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import cleaning, golds
from data.cleaning import Question, Questions
from data.contamination import near_pairs
from data.rows import EVAL_ALL
from data.sameness import language, legible
from data.source_files import Input, JsonLines
from data.sources import Form, Source
from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import question_of
from toolkit.cli import progress
from toolkit.outputs import check_unchanged, recorded_hashes

_VERIFIED = 1_000  # answers between two moves of the bar
_SHOWN = 50  # rewritten answers that the report lists


@dataclass(frozen=True)
class Options:
    """What may be chosen. `skip` holds names of `cleaning.STEPS`."""

    skip: frozenset[str] = frozenset()
    languages: tuple[str, ...] = ()
    max_similarity: float = 0.75
    validation: int = 0


@dataclass(frozen=True)
class Reference:
    """A prepared benchmark, as far as decontamination needs it."""

    name: str
    sha256: str
    ids: list[str]
    problems: list[str]
    answers: list[str]


@dataclass
class Prepared:
    """A training set, and what was wrong in its source.

    Attributes:
        rows_in: source rows.
        content_sha256: of the source's questions and answers, in whatever order and however often they stand there.
        state: what was dropped, and why.
        changed: how many rows were unwrapped, trimmed, and so on.
        languages: of the questions that are left, language -> number.
        contamination: benchmark -> what is near it.
    """

    rows_in: int
    content_sha256: str
    train: list[Question]
    validation: list[Question]
    state: Questions
    changed: dict[str, Any]
    languages: dict[str, int]
    contamination: dict[str, dict[str, Any]]


def prepare(rows: Input, source: Source, benchmarks: Sequence[Reference], options: Options) -> Prepared:
    """Run the steps of `cleaning.STEPS` that are not skipped, in their order, and split off the validation questions.

    Raises:
        UserError: a row cannot be used at all, nothing is left, or too little for the validation set.
    """

    def wanted(step: str) -> bool:
        return step not in options.skip

    form = source.form_for(rows.columns, rows.name)
    questions, rows_in, selected = _read(rows, form, merge=wanted("exact_duplicates"))
    content = content_sha256(_canonical(question, source) for question in questions)
    changed = _tidy(questions, source, options.skip)
    if wanted("exact_duplicates"):
        questions = cleaning.merged(questions)
    state = Questions(questions)
    if selected < rows_in:
        state.count("not_selected", rows_in - selected)
    if selected > len(questions):
        state.count("exact_duplicate", selected - len(questions))
    pairs = _near_benchmarks(questions, benchmarks, options.max_similarity)

    state.drop("empty_question", {q: None for q in state.kept if not q.text.strip()})
    if wanted("unusable"):
        state.drop("empty_answer", {q: None for q in state.kept if not q.answer.strip()})
        state.drop("float_damage", cleaning.damaged(state.kept))
        state.drop("unverifiable_answer", _unverifiable(state.kept))
    if wanted("conflicts"):
        state.drop("conflicting_answers", cleaning.conflicting(state.kept))
    if wanted("decontamination"):
        near = {pair.question: f"{pair.benchmark_id}: {pair.similarity:.3f}" for pair in reversed(pairs)}
        state.drop("contaminated", cleaning.with_their_copies(near, state.kept))
    if wanted("language") and options.languages:
        state.drop("other_language", cleaning.in_other_languages(state.kept, options.languages))
    if wanted("figures"):
        state.drop("figure", cleaning.with_figures(state.kept))
    if wanted("duplicates"):
        state.drop("duplicate", cleaning.duplicates(state.kept))
    if not state.kept:
        counts = ", ".join(f"{reason} {found['count']}" for reason, found in state.dropped.items())
        raise UserError(f"{rows.name}: none of {rows_in:,} rows is left ({counts}); --skip names steps to leave out")
    validation = _validation(state.kept, options)
    held_out = set(validation)
    return Prepared(
        rows_in=rows_in,
        content_sha256=content,
        train=[question for question in state.kept if question not in held_out],
        validation=validation,
        state=state,
        changed=changed,
        languages=dict(Counter(map(language, (question.text for question in state.kept))).most_common()),
        contamination=_contamination_report(pairs, benchmarks, state.reasons),
    )


def content_sha256(pairs: Iterable[tuple[str, str]]) -> str:
    """The hash of distinct (question, answer) pairs, in any order: one JSON list a line, sorted."""
    lines = sorted({json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_benchmarks(folder: Path) -> list[Reference]:
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
        found.append(Reference(path.stem, rows.origin["sha256"], ids, problems, answers))
    return found


def _read(rows: Input, form: Form, merge: bool) -> tuple[list[Question], int, int]:
    """The questions of the rows that `form` selects, the number of rows, and of those selected."""
    found: dict[Any, Question] = {}
    rows_in = selected = 0
    with progress("reading", rows.rows, "rows") as bar:
        for numbers, (texts, answers, *others) in rows.batches(form.columns):
            rows_in += len(numbers)
            for number, text, answer, *cells in zip(numbers, texts, answers, *others, strict=True):
                if form.where and not form.selects(dict(zip(form.columns[2:], cells, strict=True))):
                    continue
                selected += 1
                at = (text, answer) if merge and text.__class__ is str and answer.__class__ is str else number
                question = found.get(at)
                if question is None:
                    question = found[at] = _question(rows, form, number, text, answer)
                question.rows.append(number)
            bar.update(len(numbers))
    return list(found.values()), rows_in, selected


def _question(rows: Input, form: Form, number: int, text: Any, answer: Any) -> Question:
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise UserError(
            f"{rows.place(number)}: {form.question!r}: found {text!r:.80}, expected a text, or a list of one user message"
        )
    try:
        return Question(text, golds.READERS[form.read](answer), array("q"))
    except golds.WrongType as error:
        raise UserError(f"{rows.place(number)}: {form.answer!r}: {error}") from None


def _canonical(question: Question, source: Source) -> tuple[str, str]:
    """Question and answer as they are with every step that rewrites, whatever is skipped."""
    return source.unwrapped(legible(question.text)).strip(), golds.normalise(question.answer)


def _tidy(questions: list[Question], source: Source, skip: frozenset[str]) -> dict[str, Any]:
    """Take off invisible characters, wrapping and white space, write answers in one way; returns how many rows each changed."""
    changed = {"unwrapped": 0, "half_unwrapped": 0, "trimmed": 0, "answer_rewritten": 0}
    rewritten: dict[str, str] = {}
    for question in questions:
        # First of all: a byte order mark would hide the wrapping.
        text, rows = question.text if "trim" in skip else legible(question.text), len(question.rows)
        invisible = text != question.text
        if "unwrap" not in skip and source.prefix:
            halves = text.startswith(source.prefix) + text.endswith(source.suffix)
            changed["unwrapped"] += rows * (halves == 2)
            changed["half_unwrapped"] += rows * (halves == 1)
            text = source.unwrapped(text)
        question.text = text if "trim" in skip else text.strip()
        changed["trimmed"] += rows * (invisible or question.text != text)
        answer = question.answer if "rewrite" in skip else golds.normalise(question.answer)
        if answer != question.answer:
            changed["answer_rewritten"] += rows
            rewritten[question.answer] = answer
        question.answer = answer
    return {**changed, "answers": dict(sorted(rewritten.items())[:_SHOWN])}


@dataclass(frozen=True)
class _Near:
    question: Question
    benchmark: str
    benchmark_id: str
    similarity: float


def _near_benchmarks(questions: list[Question], benchmarks: Sequence[Reference], least: float) -> list[_Near]:
    """All pairs, the nearest first."""
    if not benchmarks:
        return []
    by_text: dict[str, list[Question]] = {}
    for question in questions:
        by_text.setdefault(question.text, []).append(question)
    texts = list(by_text)
    where = [(b.name, i) for b in benchmarks for i in b.ids]
    with progress("decontamination", len(texts), "questions") as bar:
        pairs = near_pairs([p for b in benchmarks for p in b.problems], texts, least, bar.update)
    near = [
        _Near(question, *where[pair.query], pair.similarity) for pair in pairs for question in by_text[texts[pair.text]]
    ]
    return sorted(near, key=lambda n: (-n.similarity, n.benchmark_id, n.question.order))


def _unverifiable(questions: list[Question]) -> dict[Question, str | None]:
    found: dict[Question, str | None] = {}
    questions = sorted(questions, key=lambda question: question.answer)
    with progress("verifying answers", len(questions), "answers") as bar:
        for start in range(0, len(questions), _VERIFIED):
            part = questions[start : start + _VERIFIED]
            found |= cleaning.unverifiable(part)
            bar.update(len(part))
    return found


def _validation(kept: list[Question], options: Options) -> list[Question]:
    """Questions without a near copy among the others, in an order that depends on content alone."""
    if not options.validation:
        return []
    chosen: list[Question] = []
    candidates = iter(cleaning.shuffled(kept, "validation"))
    texts = [question.text for question in kept]
    with progress("validation set", options.validation, "questions") as bar:
        while len(chosen) < options.validation:
            some = list(itertools.islice(candidates, max(100, options.validation // 4)))
            if not some or len(chosen) + 1 >= len(kept):
                raise UserError(
                    f"--validation {options.validation}: only {len(chosen)} of {len(kept)} questions have no near copy "
                    f"among the others (--max-similarity {options.max_similarity}), and some must stay for training"
                )
            pairs = near_pairs([question.text for question in some], texts, options.max_similarity)
            near = {some[pair.query] for pair in pairs if kept[pair.text] is not some[pair.query]}
            alone = [question for question in some if question not in near]
            chosen += alone[: min(options.validation, len(kept) - 1) - len(chosen)]
            bar.update(len(chosen) - bar.n)
    return chosen


def _contamination_report(
    pairs: list[_Near], benchmarks: Sequence[Reference], reasons: dict[Question, tuple[str, str | None]]
) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {}
    for benchmark in benchmarks:
        own = [pair for pair in pairs if pair.benchmark == benchmark.name]
        asked = {i: (p, a) for i, p, a in zip(benchmark.ids, benchmark.problems, benchmark.answers, strict=True)}
        report[benchmark.name] = {
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
    return report
