"""The tables of the page, in the form for the template: numbers of metrics.json, as fractions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.messages import THINKING_CUT
from eval.page.reading import SHARES, Evaluation, flatten, metric_names, pass_at_k

# The most important settings, by the last part of their names; the table of settings has all of them.
_FACTS = ("backend", "temperature", "top_p", "max_tokens", "seed", "chat", "step")


Facts = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A metric with its 95% interval, and its value under lenient extraction."""

    value: float | None
    interval: Sequence[float] | None
    lenient: float | None
    note: str | None


@dataclass(frozen=True)
class ModelRow:
    """A model's row: its metrics, then further columns, as text."""

    label: str
    cells: list[Cell]
    beside: list[str]


@dataclass(frozen=True)
class Table:
    """The scores of every model on one benchmark, or on average.

    Attributes:
        beside: the columns after the metrics.
        methods: methods of the intervals, each with its metrics, if known.
        notes: notes on intervals, each with its (label, metric).
    """

    name: str
    metrics: list[str]
    beside: list[str]
    rows: list[ModelRow]
    methods: dict[str, list[str]]
    notes: dict[str, list[tuple[str, str]]]


def benchmark_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """Every benchmark that some evaluation has, in the first one's order."""
    return list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.benchmarks))


def benchmark_table(evaluations: Sequence[Evaluation], benchmark: str) -> Table:
    """The scores on one benchmark."""
    holders = [evaluation for evaluation in evaluations if benchmark in evaluation.benchmarks]
    values = [evaluation.benchmarks[benchmark] for evaluation in holders]
    metrics = metric_names(values)
    counts = ("n_questions", "n_samples")
    shares = [*SHARES, *([THINKING_CUT] if any(THINKING_CUT in row for row in values) else [])]
    beside = [*(share.replace("_", " ") for share in shares), "questions", "samples"]
    rows = [
        ModelRow(
            evaluation.label,
            [_cell(metric, row, row.get("ci95"), row.get("lenient"), row.get("ci95_note")) for metric in metrics],
            [percent(row.get(share), 1) for share in shares] + [_count(row.get(key)) for key in counts],
        )
        for evaluation, row in zip(holders, values, strict=True)
    ]
    said = {metric: text for row in values for metric, text in (row.get("ci95_method") or {}).items()}
    methods = {text: [m for m in metrics if said.get(m) == text] for text in said.values()}
    notes: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        for metric, cell in zip(metrics, row.cells, strict=True):
            if cell.note:
                notes.setdefault(cell.note, []).append((row.label, metric))
    return Table(benchmark, metrics, beside, rows, methods, notes)


def average_table(evaluations: Sequence[Evaluation]) -> Table:
    """The macro-average over benchmarks, and their number."""
    metrics = metric_names([evaluation.metrics["average"] for evaluation in evaluations])
    rows = []
    for evaluation in evaluations:
        values, intervals = evaluation.metrics["average"], evaluation.metrics.get("average_ci95")
        cells = [_cell(metric, values, intervals, None, None) for metric in metrics]
        rows.append(ModelRow(evaluation.label, cells, [str(len(evaluation.benchmarks))]))
    return Table("average", metrics, ["benchmarks"], rows, {}, {})


def overview(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[list[float | None]]]]:
    """Like the paper's Table 1: each model's Pass@1, Avg@n and Pass@n on every benchmark, and on average."""
    rows = []
    for evaluation in evaluations:
        n = max(evaluation.drawn(name)[1] for name in evaluation.benchmarks)
        metrics = ["pass@1", *([f"avg@{n}"] if n else []), *([f"pass@{n}"] if n > 1 else [])]
        places = [evaluation.benchmarks.get(name, {}) for name in benchmark_names(evaluations)]
        rows.append(
            (evaluation.label, [[place.get(m) for m in metrics] for place in [*places, evaluation.metrics["average"]]])
        )
    return rows


def pass_at_k_table(
    evaluations: Sequence[Evaluation], benchmark: str
) -> tuple[list[int], list[tuple[str, list[float | None]]]]:
    """Every k, and each model's Pass@k at it."""
    curves = {e.label: pass_at_k(e.benchmarks.get(benchmark, {})) for e in evaluations}
    numbers = sorted({int(k) for curve in curves.values() for k in curve})
    return numbers, [(label, [curve.get(str(k)) for k in numbers]) for label, curve in curves.items() if curve]


def facts(evaluations: Sequence[Evaluation]) -> tuple[Facts, list[Facts]]:
    """The most important settings and the versions: those that all evaluations share, and each one's own."""
    each = [_facts(_all_settings(evaluation)) for evaluation in evaluations]
    shared = {k: v for k, v in each[0].items() if all(k in other and other[k] == v for other in each)}
    return shared, [{k: v for k, v in own.items() if k not in shared} for own in each]


def _facts(settings: Mapping[str, Any]) -> Facts:
    found = {last: value for key, value in settings.items() if (last := key.rpartition(".")[2]) in _FACTS}
    if "template.name" in settings:
        found["template"] = settings["template.name"]
    versions = {key.rpartition("versions.")[2]: value for key, value in settings.items() if "versions." in key}
    return found | versions


def settings_table(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[Any], bool]]:
    """Every setting and version: its name, its values in the evaluations, whether they differ; these come first."""
    columns = [_all_settings(evaluation) for evaluation in evaluations]
    rows = []
    for key in dict.fromkeys(key for column in columns for key in column):
        values = [column.get(key) for column in columns]
        rows.append((key, values, any(value != values[0] for value in values)))
    return sorted(rows, key=lambda row: not row[2])


def _all_settings(evaluation: Evaluation) -> dict[str, Any]:
    """The settings, and the manifest's fields about code and model, without those about time."""
    kept = {key: evaluation.manifest[key] for key in ("versions", "commit", "step") if evaluation.manifest.get(key)}
    return evaluation.settings | {key: value for key, value in flatten(kept).items() if key not in evaluation.settings}


def _cell(
    metric: str,
    values: Mapping[str, Any],
    intervals: Mapping[str, Any] | None,
    lenient: Mapping[str, Any] | None,
    notes: Mapping[str, str] | None,
) -> Cell:
    return Cell(
        values.get(metric), (intervals or {}).get(metric), (lenient or {}).get(metric), (notes or {}).get(metric)
    )


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction in percent; a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}"


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else "–"
