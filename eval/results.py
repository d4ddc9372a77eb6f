"""From graded samples to `metrics.json` and `summary.md`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval import estimators, question_values, summary
from eval.estimators import Estimate
from eval.identity import GREEDY, Draws
from eval.messages import LENGTH, STOP, Question
from eval.store import METRICS, SETTINGS, SUMMARY, Sample, Store, read_json
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH, answer_key

CHECKPOINTS = "checkpoints.json"
_KINDS = ("no_answer", "timeout", "error")


@dataclass(frozen=True)
class Drawn:
    """A benchmark's samples in the order of its questions.

    Attributes:
        greedy: one per question, or none.
        sampled: n per question, in the order of their numbers.
    """

    questions: Sequence[Question]
    greedy: list[Sample]
    sampled: list[list[Sample]]

    @property
    def all(self) -> list[Sample]:
        """Every sample."""
        return [*self.greedy, *(sample for samples in self.sampled for sample in samples)]


def collect(samples: Iterable[Sample], questions: Sequence[Question], draws: Draws) -> Drawn:
    """The samples that `draws` asks for; others in the folder, from an earlier command, are ignored.

    Raises:
        UserError: one is missing.
    """
    there = {sample.key: sample for sample in samples}
    wanted_greedy = [(question.id, 0, True) for question in questions if draws.greedy]
    wanted = [[(question.id, i, False) for i in range(draws.n)] for question in questions if draws.n]
    keys = [*wanted_greedy, *(key for row in wanted for key in row)]
    if missing := [key for key in keys if key not in there]:
        question, sample, _ = missing[0]
        raise UserError(
            f"{questions[0].benchmark}: {len(missing)} of {len(keys)} samples are missing, among them sample {sample} of "
            f"{question}; run eval.run again"
        )
    return Drawn(questions, [there[key] for key in wanted_greedy], [[there[key] for key in row] for row in wanted])


def benchmark_metrics(drawn: Drawn, draws: Draws) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """A benchmark's entry in metrics.json, and its estimates by metric."""
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
    draws: Draws,
    manifest: Mapping[str, Any],
    paper: summary.PaperRow | None = None,
) -> dict[str, Any]:
    """Compute, write `metrics.json` and `summary.md`, and return the content of the former.

    Raises:
        UserError: a sample is missing.
    """
    entries: dict[str, Any] = {}
    parts: dict[str, list[Estimate]] = {metric: [] for metric in draws.metrics}
    for name, own in questions.items():
        entries[name], estimates = benchmark_metrics(collect(store.samples(name), own, draws), draws)
        for metric, estimate in estimates.items():
            parts[metric].append(estimate)
    averages = {metric: estimators.macro_average(estimates) for metric, estimates in parts.items()}
    result = {
        "model": model,
        "benchmarks": entries,
        "average": {metric: average.value for metric, average in averages.items()},
        "average_se": {metric: average.se for metric, average in averages.items()},
        "average_ci95": {metric: list(average.interval) for metric, average in averages.items()},
        "average_ci95_note": {metric: average.note for metric, average in averages.items() if average.note},
        "settings": read_json(store.folder / SETTINGS) | {"n": draws.n, "metrics": list(draws.metrics)},
        "manifest": dict(manifest),
    }
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
                name: {metric: values.get(metric) for metric in result["average"]}
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


def _share(found: Iterable[bool]) -> float:
    flags = list(found)
    return sum(flags) / len(flags) if flags else 0.0


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None
