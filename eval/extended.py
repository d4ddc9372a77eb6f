"""`extended.json` and `extended.md`: what metrics.json lacks. Pure.

Pass^k, tokens, averages in which each question weighs the same, and averages over the benchmarks that were published after
the model's data ended. They are files of their own, so that metrics.json and summary.md stay as they have always been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from eval import estimators, markdown_table
from eval.drawn import Drawn
from eval.estimators import Estimate
from eval.identity import GREEDY
from eval.publication import DataEnd, Publication, is_clean
from eval.question_values import question_alls, question_means, question_passes
from eval.response_lengths import token_statistics
from eval.store import Sample

AVG, PASS, ALL = "avg", "pass", "pass^"  # of the n sampled responses of a benchmark


@dataclass(frozen=True)
class BenchmarkValues:
    """A benchmark's values by metric, one per question, and what else is shown of it."""

    by_metric: dict[str, np.ndarray]
    n: int
    published: date | None
    clean: bool | None
    passes: list[float]
    alls: list[float]
    tokens: dict[str, Any] | None


def values(drawn: Drawn, publication: Publication, end: DataEnd) -> BenchmarkValues:
    """Of a benchmark's samples. Verdicts are those under anchored extraction."""
    found: dict[str, np.ndarray] = {}
    if drawn.greedy:
        found[GREEDY] = question_means([[_right(sample)] for sample in drawn.greedy])
    passes: list[float] = []
    alls: list[float] = []
    n = len(drawn.sampled[0]) if drawn.sampled else 0
    if n:
        correct = [[_right(sample) for sample in row] for row in drawn.sampled]
        every_pass, every_all = question_passes(correct), question_alls(correct)
        found |= {AVG: question_means(correct), PASS: every_pass[:, -1], ALL: every_all[:, -1]}
        passes, alls = ([float(value) for value in table.mean(axis=0)] for table in (every_pass, every_all))
    rows = drawn.sampled or [[sample] for sample in drawn.greedy]
    tokens = token_statistics(
        [[s.tokens for s in row] for row in rows], [[s.status == "correct" for s in row] for row in rows]
    )
    return BenchmarkValues(found, n, publication.day, is_clean(publication, end), passes, alls, tokens)


def extended(by_benchmark: Mapping[str, BenchmarkValues], end: DataEnd) -> dict[str, Any]:
    """The content of extended.json."""
    clean = {name: own for name, own in by_benchmark.items() if own.clean}
    return {
        "data_end": {"day": end.day and end.day.isoformat(), "source": end.source},
        "benchmarks": {name: _entry(own) for name, own in by_benchmark.items()},
        "averages": {"all": _averages(by_benchmark), "clean": _averages(clean) if clean else None},
    }


def markdown(content: Mapping[str, Any]) -> str:
    """The content as tables."""
    end, entries = content["data_end"], content["benchmarks"]
    head = ["benchmark", "published", "clean", *(GREEDY, AVG, PASS, ALL), "tokens", "right", "wrong", "per right one"]
    rows = [
        [
            name,
            entry["published"] or "unknown",
            {True: "yes", False: "no", None: "unknown"}[entry["clean"]],
            *(_cell(entry["metrics"].get(metric), entry["n"] if metric != GREEDY else None) for metric in head[3:7]),
            *_tokens(entry["tokens"]),
        ]
        for name, entry in entries.items()
    ]
    parts = [f"# By benchmark\n\n{markdown_table.table(head, rows)}"]
    parts.append(
        "Percent, with 95% intervals over questions; in brackets n. avg, pass and pass^: of the n sampled responses the share "
        "that is right, the probability that one is, that all are. Tokens: mean of a response, of a right and of a wrong "
        f"one, and all tokens over right responses. Clean: published after {end['day'] or 'an unknown day'} ({end['source']}).\n"
    )
    averages = [
        [
            label,
            ", ".join(f"{name} ({n})" for name, n in found["benchmarks"].items()),
            kind,
            *(_cell(found[kind].get(metric)) for metric in head[3:7]),
        ]
        for label, found in content["averages"].items()
        if found
        for kind in ("by_benchmark", "by_question")
    ]
    parts.append(
        f"# Averages\n\n{markdown_table.table(['over', 'benchmarks', 'weights', *head[3:7]], averages)}"
        "by_benchmark: each benchmark weighs the same; by_question: each question. "
        + ("" if content["averages"]["clean"] else "No benchmark is known to be clean.")
        + "\n"
    )
    return "\n".join(parts)


def _right(sample: Sample) -> int:
    return int(sample.status == "correct")


def _entry(own: BenchmarkValues) -> dict[str, Any]:
    return {
        "published": own.published and own.published.isoformat(),
        "clean": own.clean,
        "n": own.n,
        "metrics": {metric: _json(estimators.estimate(found)) for metric, found in own.by_metric.items()},
        "pass@k": {str(k): value for k, value in enumerate(own.passes, start=1)},
        "pass^k": {str(k): value for k, value in enumerate(own.alls, start=1)},
        "tokens": own.tokens,
    }


def _averages(by_benchmark: Mapping[str, BenchmarkValues]) -> dict[str, Any]:
    metrics = [m for m in (GREEDY, AVG, PASS, ALL) if all(m in own.by_metric for own in by_benchmark.values())]
    parts = {metric: [own.by_metric[metric] for own in by_benchmark.values()] for metric in metrics}
    return {
        "benchmarks": {name: own.n for name, own in by_benchmark.items()},
        "by_benchmark": {m: _json(_macro(found)) for m, found in parts.items()},
        "by_question": {m: _json(estimators.estimate(np.concatenate(found))) for m, found in parts.items()},
    }


def _macro(parts: Sequence[np.ndarray]) -> Estimate:
    return estimators.macro_average([estimators.estimate(part) for part in parts])


def _json(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": list(estimate.interval), "note": estimate.note}


def _cell(found: Mapping[str, Any] | None, n: int | None = None) -> str:
    if found is None:
        return "-"
    low, high = found["ci95"]
    return f"{100 * found['value']:.2f} [{100 * low:.1f}, {100 * high:.1f}]" + (f" ({n})" if n else "")


def _tokens(found: Mapping[str, Any] | None) -> list[str]:
    names = ("mean", "correct", "wrong", "per_correct")
    return ["-" if not found or found.get(name) is None else f"{found[name]:,.0f}" for name in names]
