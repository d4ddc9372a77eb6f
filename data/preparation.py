"""A training set from a source's rows: read, clean, decontaminate, split."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from data import cleaning, golds, near_benchmarks
from data.cleaning import Questions, SourceQuestion
from data.contamination import near_pairs
from data.sameness import language, legible
from data.source_files import Input
from data.sources import Form, Source
from openrlhf_mel.errors import UserError
from toolkit.cli import progress

_VERIFIED = 1_000  # answers between two updates of the progress bar
_SHOWN = 50  # rewritten answers that the report lists


@dataclass(frozen=True)
class Options:
    """The options of a preparation. `skip` has names of `cleaning.STEPS`."""

    skip: frozenset[str] = frozenset()
    languages: tuple[str, ...] = ()
    max_similarity: float = 0.75
    validation: int = 0


@dataclass
class Prepared:
    """A training set, and the defects of its source.

    Attributes:
        rows_in: source rows.
        content_sha256: of the source's questions and answers, independent of their order and number.
        state: kept and dropped questions, with reasons.
        changed: how many rows were unwrapped, trimmed, and so on.
        languages: of the remaining questions, language -> number.
        contamination: benchmark -> questions near it.
    """

    rows_in: int
    content_sha256: str
    train: list[SourceQuestion]
    validation: list[SourceQuestion]
    state: Questions
    changed: dict[str, Any]
    languages: dict[str, int]
    contamination: dict[str, dict[str, Any]]


def prepare(
    rows: Input, source: Source, benchmarks: Sequence[near_benchmarks.ReferenceBenchmark], options: Options
) -> Prepared:
    """Run the steps of `cleaning.STEPS` that are not skipped, in their order, and split off the validation questions.

    Raises:
        UserError: a row cannot be used at all, no question remains, or too few for the validation set.
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
    pairs = near_benchmarks.near(questions, benchmarks, options.max_similarity)

    state.drop("empty_question", {q: None for q in state.kept if not q.text.strip()})
    if wanted("unusable"):
        state.drop("empty_answer", {q: None for q in state.kept if not q.answer.strip()})
        state.drop("float_damage", cleaning.damaged(state.kept, source.answer))
        state.drop("unverifiable_answer", _unverifiable(state.kept, source.answer))
    if wanted("conflicts"):
        state.drop("conflicting_answers", cleaning.conflicting(state.kept, source.answer))
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
        contamination=near_benchmarks.report(pairs, benchmarks, state.reasons),
    )


def content_sha256(pairs: Iterable[tuple[str, str]]) -> str:
    """The hash of distinct (question, answer) pairs, in any order: one JSON list a line, sorted."""
    lines = sorted({json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(rows: Input, form: Form, merge: bool) -> tuple[list[SourceQuestion], int, int]:
    """The questions of the rows that `form` selects, the number of rows, and of those selected."""
    found: dict[Any, SourceQuestion] = {}
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


def _question(rows: Input, form: Form, number: int, text: Any, answer: Any) -> SourceQuestion:
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise UserError(
            f"{rows.place(number)}: {form.question!r}: found {text!r:.80}, expected a text, or a list of one user message"
        )
    try:
        return SourceQuestion(text, golds.READERS[form.read](answer), array("q"))
    except golds.WrongType as error:
        raise UserError(f"{rows.place(number)}: {form.answer!r}: {error}") from None


def _canonical(question: SourceQuestion, source: Source) -> tuple[str, str]:
    """Question and answer after every rewriting step, also those that are skipped."""
    return source.unwrapped(legible(question.text)).strip(), golds.normalise(question.answer, source.answer)


def _tidy(questions: list[SourceQuestion], source: Source, skip: frozenset[str]) -> dict[str, Any]:
    """Remove invisible characters, wrapping and white space; normalise answers. Returns the changed rows per step."""
    changed = {"unwrapped": 0, "half_unwrapped": 0, "trimmed": 0, "answer_rewritten": 0}
    rewritten: dict[str, str] = {}
    for question in questions:
        # This comes first: a byte order mark would hide the wrapping.
        text, rows = question.text if "trim" in skip else legible(question.text), len(question.rows)
        invisible = text != question.text
        if "unwrap" not in skip and source.prefix:
            halves = text.startswith(source.prefix) + text.endswith(source.suffix)
            changed["unwrapped"] += rows * (halves == 2)
            changed["half_unwrapped"] += rows * (halves == 1)
            text = source.unwrapped(text)
        question.text = text if "trim" in skip else text.strip()
        changed["trimmed"] += rows * (invisible or question.text != text)
        answer = question.answer if "rewrite" in skip else golds.normalise(question.answer, source.answer)
        if answer != question.answer:
            changed["answer_rewritten"] += rows
            rewritten[question.answer] = answer
        question.answer = answer
    return {**changed, "answers": dict(sorted(rewritten.items())[:_SHOWN])}


def _unverifiable(questions: list[SourceQuestion], scorer: str) -> dict[SourceQuestion, str | None]:
    found: dict[SourceQuestion, str | None] = {}
    questions = sorted(questions, key=lambda question: question.answer)
    with progress("verifying answers", len(questions), "answers") as bar:
        for start in range(0, len(questions), _VERIFIED):
            part = questions[start : start + _VERIFIED]
            found |= cleaning.unverifiable(part, scorer)
            bar.update(len(part))
    return found


def _validation(kept: list[SourceQuestion], options: Options) -> list[SourceQuestion]:
    """Questions without a near copy among the others, in an order that depends on content alone."""
    if not options.validation:
        return []
    chosen: list[SourceQuestion] = []
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
