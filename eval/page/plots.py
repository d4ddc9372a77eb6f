"""The plots: Pass@k, accuracy by length, scores by training step (the paper's figures 6-8), a radar (its figure 5)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from eval.page.by_length import Bin
from eval.page.reading import Evaluation, metric_key, metric_names, pass_at_k
from eval.page.tables import benchmark_names

_COLOURS = ("#3b6fd9", "#d97706", "#0f9d76", "#c2417f", "#7c5cd6", "#1797b8", "#cf4a3c", "#6f8f1e")
_WITH_INTERVALS = 4  # with more lines in a panel intervals would hide each other; the tables have them
_PANEL = (4.0, 2.8)  # inches
DPI = 150


def _theme(ground: str, ink: str, faint: str) -> dict[Any, Any]:
    return {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), ground),
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), ink),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), faint),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "font.size": 9.5,
        "legend.frameon": False,
        "figure.constrained_layout.h_pad": 0.1,
        "figure.constrained_layout.w_pad": 0.1,
        "text.parse_math": False,  # labels are folder names: `$` is no formula
    }


# Background colours are those of the page (report.css).
THEMES = {"light": _theme("#ffffff", "#1d2330", "#c9ced8"), "dark": _theme("#171b23", "#e4e8ef", "#444c5c")}


def png(draw: Callable[[], Figure | None], theme: str) -> bytes | None:
    """The picture in a theme, as a PNG file, the same bytes for the same numbers; None where there is none."""
    with matplotlib.rc_context(THEMES[theme]):
        figure = draw()
        if figure is None:
            return None
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
        return file.getvalue()


def draw_pass_at_k(evaluations: Sequence[Evaluation]) -> Figure | None:
    """Pass@k against k, a panel a benchmark; None where nothing was sampled."""
    names = [n for n in benchmark_names(evaluations) if any(pass_at_k(e.benchmarks.get(n, {})) for e in evaluations)]
    if not names:
        return None
    figure, panels = _panels(names)
    for name, axes in panels:
        with_intervals = len(evaluations) <= _WITH_INTERVALS
        for evaluation, colour in _coloured(evaluations):
            values = evaluation.benchmarks.get(name, {})
            points = {int(k): value for k, value in pass_at_k(values).items() if value is not None}
            ks = sorted(points)
            intervals = [_pass_interval(values, k, ks[-1]) for k in ks] if with_intervals else []
            _line(axes, ks, [points[k] for k in ks], intervals, colour)
        if max(axes.dataLim.x1, 1) > 16:
            axes.set_xscale("log", base=2)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _finish(axes, "k", "Pass@k")
    _legend(figure, {e.label: colour for e, colour in _coloured(evaluations)})
    return figure


def draw_lengths(
    evaluations: Sequence[Evaluation], bins: Mapping[str, Mapping[str, Sequence[Bin]]], units: Mapping[str, str]
) -> Figure:
    """Accuracy against length, a panel a benchmark; `bins` is by benchmark and label, a point stands at its median."""
    figure, panels = _panels(list(bins))
    for name, axes in panels:
        for evaluation, colour in _coloured(evaluations):
            found = bins[name].get(evaluation.label, [])
            intervals = [b.interval for b in found] if len(evaluations) <= _WITH_INTERVALS else []
            _line(axes, [b.median for b in found], [b.accuracy for b in found], intervals, colour)
        _finish(axes, f"length ({units[name]})", "accuracy")
    _legend(figure, {e.label: colour for e, colour in _coloured(evaluations)})
    return figure


def draw_steps(evaluations: Sequence[Evaluation]) -> Figure | None:
    """Every metric against the training step, per benchmark and on average; None unless a run has several steps."""
    runs = runs_of(evaluations)
    runs = {run: found for run, found in runs.items() if len({e.step for e in found}) > 1}
    if not runs:
        return None
    everyone = [evaluation for found in runs.values() for evaluation in found]
    names = [*benchmark_names(everyone), "average"]
    metrics = metric_names([values for e in everyone for values in (*e.benchmarks.values(), e.metrics["average"])])
    rows = _rows(len(names))
    figure = Figure((_columns(len(names)) * _PANEL[0], (rows * _PANEL[1] + 0.4) * len(metrics)), layout="constrained")
    for part, metric in zip(figure.subfigures(len(metrics), 1, squeeze=False)[:, 0], metrics, strict=True):
        part.suptitle(metric_title(metric), fontweight="bold", fontsize=13, x=0.015, ha="left")
        for name, axes in _fill(part, names):
            for number, found in enumerate(runs.values()):
                scores = [(e.step, _score(e, name, metric)) for e in found if e.step is not None]
                points = sorted((step, *score) for step, score in scores if score)
                intervals = [point[2] for point in points] if len(runs) <= _WITH_INTERVALS else []
                _line(axes, [p[0] for p in points], [p[1] for p in points], intervals, _COLOURS[number % 8])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            _finish(axes, "step", "")
    _legend(figure, {run: _COLOURS[number % 8] for number, run in enumerate(runs)})
    return figure


def draw_radar(evaluations: Sequence[Evaluation]) -> Figure | None:
    """The benchmarks as a radar, for at least two models (of a training run its last checkpoint), three benchmarks."""
    models = radar_models(evaluations)
    names = [name for name in benchmark_names(models) if all(name in model.benchmarks for model in models)]
    metric = radar_metric(models, names)
    if len(models) < 2 or len(names) < 3 or metric is None:
        return None
    figure = Figure((6.4, 5.6), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    assert isinstance(axes, PolarAxes)
    axes.set(theta_offset=math.pi / 2, theta_direction=-1)
    axes.set_title(f"{metric_title(metric)}, percent", pad=22)
    angles = [2 * math.pi * i / len(names) for i in range(len(names))]
    for model, colour in _coloured(models):
        values = [100 * model.benchmarks[name][metric] for name in names]
        axes.plot([*angles, angles[0]], [*values, values[0]], color=colour, lw=2, marker="o", ms=4)
        axes.fill(angles, values, color=colour, alpha=0.06)
    axes.set_xticks(angles, [_short(name) for name in names])
    axes.tick_params(axis="x", pad=14)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(0, 100)
    axes.set_yticks([25, 50, 75, 100])
    axes.set_rlabel_position(180 / len(names))
    axes.spines["polar"].set_visible(False)
    axes.grid(alpha=0.6)
    _legend(figure, {model.label: colour for model, colour in _coloured(models)})
    return figure


def radar_models(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Every model once; for a training run its last checkpoint."""
    last = {id(max(found, key=lambda e: e.step or 0)) for found in runs_of(evaluations).values()}
    return [evaluation for evaluation in evaluations if evaluation.step is None or id(evaluation) in last]


def radar_metric(models: Sequence[Evaluation], names: Sequence[str]) -> str | None:
    """The first of Avg@n and Pass@1 that every model has on every benchmark."""
    values = [model.benchmarks[name] for model in models for name in names]
    common = [metric for metric in metric_names(values) if all(row.get(metric) is not None for row in values)]
    return next((m for m in sorted(common, key=lambda m: (not m.startswith("avg@"), metric_key(m)))), None)


def runs_of(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """The checkpoints of each training run."""
    runs: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.step is not None:
            runs.setdefault(evaluation.run, []).append(evaluation)
    return runs


def metric_title(metric: str) -> str:
    """A metric's name as in the paper, `Avg@8`; the greedy Pass@1 is marked as such."""
    return "Pass@1 (greedy)" if metric == "pass@1" else metric.capitalize()


def _score(evaluation: Evaluation, name: str, metric: str) -> tuple[float, Any] | None:
    if name == "average":
        values, intervals = evaluation.metrics["average"], evaluation.metrics.get("average_ci95")
    else:
        values = evaluation.benchmarks.get(name, {})
        intervals = values.get("ci95")
    value = values.get(metric)
    return None if value is None else (value, (intervals or {}).get(metric))


def _pass_interval(values: Mapping[str, Any], k: int, n: int) -> Any:
    """The interval of Pass@k. At k = 1 it is that of Avg@n, because `pass@1` is the greedy response's."""
    return (values.get("ci95") or {}).get(f"avg@{n}" if k == 1 else f"pass@{k}")


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], intervals: Sequence[Any], colour: Any) -> None:
    """A line in percent, with bars for the existing intervals."""
    axes.plot(x, [100 * value for value in y], color=colour, lw=1.8, marker="o", ms=3.5)
    for place, interval in zip(x, intervals, strict=False):
        if interval:
            axes.vlines(place, 100 * interval[0], 100 * interval[1], color=colour, lw=4, alpha=0.22)


def _coloured(evaluations: Sequence[Evaluation]) -> Iterator[tuple[Evaluation, Any]]:
    """Each with its colour: a sequence of colours for many or for checkpoints of a run, distinct ones for few."""
    one_run = len(evaluations) > 2 and None not in {e.step for e in evaluations} and len(runs_of(evaluations)) == 1
    few = len(evaluations) <= len(_COLOURS) and not one_run
    for number, evaluation in enumerate(evaluations):
        shade = 0.12 + 0.76 * number / max(1, len(evaluations) - 1)
        yield evaluation, _COLOURS[number] if few else colormaps["plasma"](shade)


def _columns(panels: int) -> int:
    return min(3, panels) if panels != 4 else 2


def _rows(panels: int) -> int:
    return math.ceil(panels / _columns(panels))


def _panels(names: Sequence[str]) -> tuple[Figure, Iterator[tuple[str, Axes]]]:
    width, height = _columns(len(names)) * _PANEL[0], _rows(len(names)) * _PANEL[1]
    figure = Figure((max(width, 5.5), height if len(names) > 1 else 3.6), layout="constrained")
    return figure, _fill(figure, names)


def _fill(figure: Figure | SubFigure, names: Sequence[str]) -> Iterator[tuple[str, Axes]]:
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(_rows(len(names)), _columns(len(names)), place)
        axes.set_title(_short(name), loc="left")
        yield name, axes


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.5, lw=0.6)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    low, high = axes.get_ylim()
    axes.set_ylim(max(-1.5, low), min(101.5, high))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 2.5, 5, 10]))


def _legend(figure: Figure, colours: Mapping[str, Any]) -> None:
    if len(colours) > 1:
        handles = [Line2D([], [], color=colour, lw=2, marker="o", ms=4) for colour in colours.values()]
        figure.legend(
            handles, [_short(label) for label in colours], loc="outside lower center", ncols=min(4, len(colours))
        )


def _short(label: str) -> str:
    """A label for a picture: one short line without a leading `_` (which would hide it from the legend)."""
    text = " ".join(label.split()).lstrip("_") or "?"
    return text if len(text) <= 36 else f"{text[:22]}…{text[-13:]}"
