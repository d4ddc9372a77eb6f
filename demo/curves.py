"""The demo's picture: reward, retention ratio and NLL against the step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # needs no display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from demo.scoreboard import Record

_COLOURS = {"grpo": "tab:gray", "mel": "tab:blue"}


def draw(path: Path, runs: Mapping[str, Sequence[Record]]) -> None:
    """Write the picture of `runs` (name -> lines of metrics.jsonl) atomically."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name, steps in runs.items():
        _curve(axes[0], name, steps, "reward_mean")
        _curve(axes[1], name, [row for row in steps if row.get("mel/candidates")], "mel/retention_ratio")
        _curve(axes[2], name, [row for row in steps if row.get("mel/kept")], "loss/nll")
    titles = ("training reward", "retention ratio", "NLL of kept meta-experiences")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    for axis, top in zip(axes, (1, 1, None), strict=True):
        axis.set_ylim(0, top)
    axes[0].legend()
    aside = path.with_name(f".{path.name}.partial")
    figure.savefig(aside, format="png", dpi=120)
    plt.close(figure)
    os.replace(aside, path)


def _curve(axis: Axes, name: str, steps: Sequence[Record], key: str) -> None:
    points = [(row["step"], row[key]) for row in steps if key in row]
    if points:
        axis.plot(*zip(*points, strict=True), label=name, color=_COLOURS[name])
