"""Two evaluations over the questions that both have: values side by side, differences with interval and p-value.

A difference is the other's value minus the baseline's. avg@n and pass@n take n from the evaluation with fewer samples of
that benchmark; over benchmarks of different n they are called avg and pass. The one with more samples contributes all of them: their mean, and the unbiased estimate of Pass@n.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval import estimators, seed_folders
from eval.identity import GREEDY, differences
from eval.question_values import question_means, question_passes
from eval.seed_settings import check_seeds
from eval.store import SAMPLES, SETTINGS, evaluated, read_json, read_questions, read_samples, single
from openrlhf_mel.errors import UserError

_SHOWN = 3  # entries of a list in a message


@dataclass
class Answered:
    """A question of an evaluation: its text, and which of its samples are correct."""

    problem: str
    answer: str
    greedy: bool | None = None
    sampled: dict[int, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedEvaluation:
    """The content of an evaluation's folder, by benchmark and by question id.

    Attributes:
        settings: everything that could change a sample.
        n: the most sampled responses that a question of a benchmark has.
    """

    folder: Path
    settings: dict[str, Any]
    questions: dict[str, dict[str, Answered]]
    n: dict[str, int]


@dataclass(frozen=True)
class ComparedMetric:
    """One metric over some questions, or the mean of that over benchmarks.

    Attributes:
        ids: of the questions, in the order of `before` and `after`, their values.
        difference: of the means, with interval.
        p_value: of "neither is better".
    """

    ids: list[str]
    before: np.ndarray
    after: np.ndarray
    baseline: float
    other: float
    difference: estimators.Estimate
    p_value: float

    @property
    def won(self) -> list[str]:
        """Ids of the questions on which the other evaluation is better."""
        return [i for i, gained in zip(self.ids, self.after > self.before, strict=True) if gained]

    @property
    def lost(self) -> list[str]:
        """Ids of the questions on which the baseline is better."""
        return [i for i, lost in zip(self.ids, self.after < self.before, strict=True) if lost]


def _load_one(folder: Path) -> ComparedEvaluation:
    """Read an evaluation.

    Samples of questions that are not in `questions/` (from an earlier, larger run) are ignored.

    Raises:
        UserError: the folder is no evaluation, or cannot be read.
    """
    names = evaluated(folder)
    settings = read_json(folder / SETTINGS)
    found: dict[str, dict[str, Answered]] = {}
    for name in names:
        found[name] = {
            question.id: Answered(question.problem, question.answer) for question in read_questions(folder, name)
        }
        for sample in read_samples(folder / SAMPLES / f"{name}.jsonl"):
            if (question := found[name].get(sample.question)) is None:
                continue
            right = sample.status == "correct"
            if sample.greedy:
                question.greedy = right
            else:
                question.sampled[sample.sample] = right
    n = {name: _most(rows) for name, rows in found.items()}
    return ComparedEvaluation(folder, settings, found, n)


def load(folder: Path) -> ComparedEvaluation:
    """The only evaluation in a folder; of several seeds (`eval.run --seeds`) the samples together, as of one evaluation.

    Raises:
        UserError: the folder holds no evaluation, several checkpoints, or seeds of other settings.
    """
    first, *others = (_load_one(single(own)) for own in seed_folders.existing(folder) or [folder])
    check_seeds({e.folder: e.settings for e in (first, *others)})
    for other in others:
        for name, ids in common_questions(first, other, []).items():
            for i in ids:
                sampled, more = (e.questions[name][i].sampled for e in (first, other))
                sampled |= dict(enumerate(more.values(), start=max(sampled, default=-1) + 1))
    n = {name: _most(rows) for name, rows in first.questions.items()}
    seeds = {"seed": [e.settings.get("seed") for e in (first, *others)]} if others else {}
    return ComparedEvaluation(folder if others else first.folder, first.settings | seeds, first.questions, n)


def compare(baseline: ComparedEvaluation, other: ComparedEvaluation) -> dict[str, Any]:
    """The whole comparison, as it is written to JSON.

    Raises:
        UserError: no question is in both, or one has different texts.
    """
    warnings: list[str] = []
    common = common_questions(baseline, other, warnings)
    fewest = {name: min(filter(None, (e.n[name] for e in (baseline, other))), default=0) for name in common}
    ns = set(filter(None, fewest.values()))
    rows: dict[str, dict[str, ComparedMetric]] = {}
    for name, ids in common.items():
        before, after, n = baseline.questions[name], other.questions[name], fewest[name]
        rows[name] = {}
        drawn = [{i: q.greedy is not None for i, q in side.items()} for side in (before, after)]
        if whole := _whole(ids, drawn):
            values = [np.array([e[i].greedy for i in whole], dtype=float) for e in (before, after)]
            rows[name][GREEDY] = _row(whole, *values)
            _warn_of_missing(warnings, name, GREEDY, len(ids) - len(whole))
        drawn = [{i: len(q.sampled) == e.n[name] > 0 for i, q in e.questions[name].items()} for e in (baseline, other)]
        if whole := _whole(ids, drawn):
            correct = [np.array([list(e[i].sampled.values()) for i in whole]) for e in (before, after)]
            rows[name][f"avg@{n}"] = _row(whole, *map(question_means, correct))
            if n > 1:
                rows[name][f"pass@{n}"] = _row(whole, *(question_passes(c)[:, n - 1] for c in correct))
            _warn_of_missing(warnings, name, f"avg@{n}", len(ids) - len(whole))
    if not any(rows.values()):
        raise UserError(
            f"{baseline.folder}, {other.folder}: no question has all its samples in both; "
            "finish both evaluations, with the same kind of samples (greedy, sampled)"
        )
    by_metric: dict[str, dict[str, ComparedMetric]] = defaultdict(dict)
    for name, found in rows.items():
        for metric, row in found.items():
            kind = metric if len(ns) < 2 or metric == GREEDY else metric.partition("@")[0]
            by_metric[kind][name] = row
    return {
        "baseline": str(baseline.folder),
        "other": str(other.folder),
        "n": fewest if len(ns) > 1 else next(iter(ns), None),
        "samples": {side: {name: e.n[name] for name in common} for side, e in _sides(baseline, other)},
        "warnings": warnings,
        "settings_that_differ": differences(baseline.settings, other.settings),
        "benchmarks": {name: {m: _json(row, ids=True) for m, row in found.items()} for name, found in rows.items()},
        "overall": {metric: _json(_pooled(parts), ids=False) for metric, parts in by_metric.items()},
        "average": {metric: _json(_macro(parts), ids=False) for metric, parts in by_metric.items()},
    }


def _most(questions: Mapping[str, Answered]) -> int:
    """The most sampled responses that one of them has."""
    return max((len(question.sampled) for question in questions.values()), default=0)


def _sides(baseline: ComparedEvaluation, other: ComparedEvaluation) -> tuple[tuple[str, ComparedEvaluation], ...]:
    return ("baseline", baseline), ("other", other)


def common_questions(
    baseline: ComparedEvaluation, other: ComparedEvaluation, warnings: list[str]
) -> dict[str, list[str]]:
    """The ids in both, by benchmark, in the baseline's order; `warnings` gets those left out.

    Raises:
        UserError: no question is in both, or one has different texts.
    """
    both = [name for name in baseline.questions if name in other.questions]
    if not both:
        raise UserError(
            f"{baseline.folder} has {', '.join(baseline.questions)} and {other.folder} has "
            f"{', '.join(other.questions)}: no benchmark is in both; compare evaluations of the same benchmarks"
        )
    for (_, one), (_, two) in (pair := _sides(baseline, other), pair[::-1]):
        if alone := [name for name in one.questions if name not in two.questions]:
            warnings.append(f"left out, only in {one.folder}: the benchmarks {', '.join(alone)}")
    common: dict[str, list[str]] = {}
    for name in both:
        before, after = baseline.questions[name], other.questions[name]
        ids = [i for i in before if i in after]
        for folder, extra in ((baseline.folder, len(before) - len(ids)), (other.folder, len(after) - len(ids))):
            if extra:
                warnings.append(f"{name}: left out {extra} of {extra + len(ids)} questions, which only {folder} has")
        if changed := [i for i in ids if before[i].problem != after[i].problem]:
            raise UserError(
                f"{name}: the text of {len(changed)} questions differs between {baseline.folder} and {other.folder}, "
                f"first {', '.join(map(repr, changed[:_SHOWN]))}; evaluate both on the same data"
            )
        if other_golds := sum(before[i].answer != after[i].answer for i in ids):
            warnings.append(f"{name}: {other_golds} questions were judged by different reference answers")
        if ids:
            common[name] = ids
    if not common:
        raise UserError(
            f"{baseline.folder}, {other.folder}: no question is in both, of {', '.join(both)}; "
            "evaluate both on the same data"
        )
    return common


def _whole(ids: Iterable[str], there: Sequence[Mapping[str, bool]]) -> list[str]:
    """The ids with all samples on both sides."""
    return [i for i in ids if all(side[i] for side in there)]


def _warn_of_missing(warnings: list[str], name: str, metric: str, missing: int) -> None:
    if missing:
        warnings.append(f"{name}, {metric}: left out {missing} questions that lack samples; finish the evaluation")


def _row(ids: list[str], before: np.ndarray, after: np.ndarray) -> ComparedMetric:
    gains = after - before
    estimate, p_value = estimators.gains_estimate(gains), estimators.sign_flip_p_value(gains)
    return ComparedMetric(ids, before, after, float(before.mean()), float(after.mean()), estimate, p_value)


def _pooled(parts: Mapping[str, ComparedMetric]) -> ComparedMetric:
    """Pool all questions with equal weights."""
    ids, before, after = _joined(parts)
    return _row(ids, before, after)


def _macro(parts: Mapping[str, ComparedMetric]) -> ComparedMetric:
    """Average over benchmarks with equal weights: a question's weight is its share of its benchmark."""
    weighted = np.concatenate([(row.after - row.before) / len(row.ids) for row in parts.values()])
    baseline, other = (float(np.mean([getattr(row, side) for row in parts.values()])) for side in ("baseline", "other"))
    difference = estimators.macro_average([row.difference for row in parts.values()])
    return ComparedMetric(*_joined(parts), baseline, other, difference, estimators.sign_flip_p_value(weighted))


def _joined(parts: Mapping[str, ComparedMetric]) -> tuple[list[str], np.ndarray, np.ndarray]:
    ids = [f"{name}/{i}" for name, row in parts.items() for i in row.ids]
    return ids, *(np.concatenate([getattr(row, side) for row in parts.values()]) for side in ("before", "after"))


def _json(row: ComparedMetric, ids: bool) -> dict[str, Any]:
    difference = row.difference
    return {
        "questions": len(row.ids),
        "baseline": row.baseline,
        "other": row.other,
        "difference": difference.value,
        "se": difference.se,
        "ci95": list(difference.interval),
        "ci95_method": difference.method,
        "ci95_note": difference.note,
        "p_value": row.p_value,
        "won": row.won if ids else len(row.won),
        "lost": row.lost if ids else len(row.lost),
    }
