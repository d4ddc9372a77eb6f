"""From graded samples to `metrics.json` and `summary.md`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval import estimators, extended, question_values, sample_plan, summary
from eval.drawn import Drawn, collect
from eval.estimators import Estimate
from eval.identity import GREEDY, Draws
from eval.messages import LENGTH, STOP, THINKING_CUT, Question
from eval.publication import DataEnd, Publication, publications
from eval.store import EXTENDED, METRICS, SETTINGS, SUMMARY, Sample, Store, read_json
from eval.thinking_end import recorded_end, seen, unfinished
from openrlhf_mel import disk
from openrlhf_mel.verifier import MATH, answer_key

CHECKPOINTS = "checkpoints.json"
_KINDS = ("no_answer", "timeout", "error")


def benchmark_metrics(
    drawn: Drawn, draws: Draws, thinking_end: str | None = None
) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """A benchmark's entry in metrics.json, and its estimates by metric.

    `thinking_end`: the closing mark of the thinking that the prompts left open, if they did.
    """
    estimates = _estimates(drawn, draws, lenient=False)
    lenient = _estimates(drawn, draws, lenient=True)
    samples = drawn.all
    entry: dict[str, Any] = {"n_questions": len(drawn.questions), "n_samples": len(samples)}
    entry |= {metric: estimate.value for metric, estimate in estimates.items()}
    passes: Iterable[float] = estimators.pass_at_ks(_correct(drawn.sampled, False)) if draws.n else []
    entry |= {
        "pass@k": {str(k): float(value) for k, value in enumerate(passes, start=1)},
        "se": {metric: estimate.se for metric, estimate in estimates.items()},
        "ci95": {metric: list(estimate.interval) for metric, estimate in estimates.items()},
        "ci95_method": {metric: estimate.method for metric, estimate in estimates.items()},
        "ci95_note": {metric: estimate.note for metric, estimate in estimates.items() if estimate.note},
        "truncated": _share(sample.finish_reason == LENGTH for sample in samples),
        **_thinking_cut(samples, thinking_end),
        **{kind: _share(sample.status == kind for sample in samples) for kind in _KINDS},
        "ended_otherwise": dict(Counter(s.finish_reason for s in samples if s.finish_reason not in (STOP, LENGTH))),
        "tokens_mean": _mean([sample.tokens for sample in samples if sample.tokens is not None]),
        "lenient": {metric: estimate.value for metric, estimate in lenient.items()},
        "scorer": drawn.questions[0].scorer if drawn.questions else MATH,
    }
    return entry, estimates


def write_results(
    store: Store,
    model: str,
    questions: Mapping[str, Sequence[Question]],
    draws: Mapping[str, Draws],
    manifest: Mapping[str, Any],
    paper: summary.PaperRow | None = None,
    end: DataEnd | None = None,
) -> dict[str, Any]:
    """Compute and write `metrics.json`, `summary.md` and the extended results; returns the content of metrics.json.

    Averages are of the metrics that all benchmarks have.

    Args:
        draws: by benchmark.
        end: of the model's data; None: not known.

    Raises:
        UserError: a sample is missing.
    """
    end = end or DataEnd()
    entries: dict[str, Any] = {}
    common = [m for m in next(iter(draws.values())).metrics if all(m in own.metrics for own in draws.values())]
    estimates: dict[str, dict[str, Estimate]] = {}
    values: dict[str, extended.BenchmarkValues] = {}
    known = publications()
    settings = read_json(store.folder / SETTINGS)
    thinking_end = recorded_end(settings)
    for name, own in questions.items():
        drawn = collect(store.samples(name), own, draws[name])
        entries[name], estimates[name] = benchmark_metrics(drawn, draws[name], thinking_end)
        values[name] = extended.values(drawn, known.get(name, Publication()), end)
    averages = {metric: estimators.macro_average([own[metric] for own in estimates.values()]) for metric in common}
    result = {
        "model": model,
        "benchmarks": entries,
        "average": {metric: average.value for metric, average in averages.items()},
        "average_se": {metric: average.se for metric, average in averages.items()},
        "average_ci95": {metric: list(average.interval) for metric, average in averages.items()},
        "average_ci95_note": {metric: average.note for metric, average in averages.items() if average.note},
        "settings": settings | sample_plan.recorded(draws),
        "manifest": dict(manifest),
    }
    more = extended.extended(values, end)
    disk.write_json(store.folder / EXTENDED, more)
    disk.write_text(store.folder / EXTENDED.replace(".json", ".md"), extended.markdown(more))
    disk.write_json(store.folder / METRICS, result)
    disk.write_text(store.folder / SUMMARY, summary.markdown(result, paper))
    return result


def write_checkpoints(folder: Path) -> None:
    """One row for each checkpoint evaluated into `folder`, by step: the data of the paper's figures 6 to 8."""
    found = [(path.parent.name, read_json(path)) for path in sorted(folder.glob(f"*/{METRICS}"))]
    rows = [
        {
            "label": label,
            "step": result["manifest"].get("step"),
            **{key: result[key] for key in ("average", "average_ci95")},
            "benchmarks": {
                name: {metric: values.get(metric) for metric in sample_plan.metrics(result, name)}
                for name, values in result["benchmarks"].items()
            },
        }
        for label, result in found
    ]
    rows.sort(key=lambda row: (row["step"] is None, row["step"] or 0, row["label"]))
    disk.write_json(folder / CHECKPOINTS, rows)
    disk.write_text(folder / SUMMARY, summary.checkpoints_markdown(rows))


def answer_label(sample: Sample, lenient: bool, reference: str = "") -> str | None:
    """The label that Maj@n counts: correct answers share one, others have their option, number or text; None for no answer."""
    status, extracted = (
        (sample.lenient_status, sample.lenient_extracted) if lenient else (sample.status, sample.extracted)
    )
    if status == "correct":
        return "right"
    if extracted is None:
        return None
    return answer_key(extracted, reference)


def _estimates(drawn: Drawn, draws: Draws, lenient: bool) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for metric in draws.metrics:
        kind, _, k = metric.partition("@")
        if metric == GREEDY:
            values = question_values.question_means(_correct([[sample] for sample in drawn.greedy], lenient))
        elif kind == "avg":
            values = question_values.question_means(_correct(drawn.sampled, lenient))
        elif kind == "pass":
            values = question_values.question_passes(_correct(drawn.sampled, lenient))[:, int(k) - 1]
        else:
            labels = [
                [answer_label(sample, lenient, question.reference) for sample in samples]
                for question, samples in zip(drawn.questions, drawn.sampled, strict=True)
            ]
            values = question_values.question_majorities(labels, _correct(drawn.sampled, lenient))
        found[metric] = estimators.estimate(values)
    return found


def _correct(samples: Sequence[Sequence[Sample]], lenient: bool) -> np.ndarray:
    """(questions, n), 1 where correct."""
    return np.array([[(s.lenient_status if lenient else s.status) == "correct" for s in row] for row in samples], int)


def _thinking_cut(samples: Sequence[Sample], end: str | None) -> dict[str, float]:
    """The share of responses that were cut while thinking; nothing where there is no thinking."""
    if end is None and not any(map(seen, samples)):
        return {}
    return {THINKING_CUT: _share(s.finish_reason == LENGTH and unfinished(s, end) for s in samples)}


def _share(found: Iterable[bool]) -> float:
    flags = list(found)
    return sum(flags) / len(flags) if flags else 0.0


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None
