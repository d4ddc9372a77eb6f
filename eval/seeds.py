"""Several seeds of one evaluation: mean and spread of each metric, in `seeds.json` and `summary.md`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import sample_plan, seed_folders, summary
from eval.seed_settings import check_seeds
from eval.store import METRICS, SUMMARY, read_json
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError

SEEDS = "seeds.json"


def write_seeds(folder: Path, places: Sequence[Path]) -> None:
    """Write, into `folder`, a row for each model (a run has several checkpoints), by step.

    Args:
        places: the seeds' folders (`seed_folders.place`).

    Raises:
        UserError: no seed's evaluation is finished, or those of one model differ in settings, benchmarks or metrics.
    """
    found: dict[Path, dict[Path, dict[str, Any]]] = {}
    for own in places:
        for path in (*own.glob(METRICS), *own.glob(f"*/{METRICS}")):
            found.setdefault(path.parent.relative_to(own), {})[path.parent] = read_json(path)
    if not found:
        raise UserError(f"{folder}: no seed's evaluation is finished; run eval.run again")
    rows = [seeds_row(results) for results in found.values()]
    rows.sort(key=lambda row: (row["step"] is None, row["step"] or 0, row["model"]))
    disk.write_json(folder / SEEDS, rows)
    disk.write_text(folder / SUMMARY, summary.seeds_markdown(rows))


def recorded(folder: Path) -> list[Path]:
    """The folders of the seeds that `seeds.json` sums up, in order; none if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / SEEDS
    rows: Any = read_json(path) if path.exists() else []
    try:
        seeds = dict.fromkeys(int(seed) for row in rows for seed in row["seeds"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}), expected rows with seeds; run eval.run again") from None
    return [seed_folders.place(folder, seed) for seed in seeds]


def seeds_row(results: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations (n - 1 in the denominator; None for one seed) of one model's `metrics.json` by folder.

    Raises:
        UserError: they differ in settings, benchmarks or metrics.
    """
    check_seeds({folder: result["settings"] for folder, result in results.items()})
    first, *others = results
    for other in others:
        _check_metrics({folder: results[folder] for folder in (first, other)})
    found, one = list(results.values()), results[first]
    mean, deviation = _spread([result["average"] for result in found], one["average"])
    row = {
        "model": one["model"],
        "step": one["manifest"].get("step"),
        "limit": one["manifest"].get("limit"),
        "seeds": [result["settings"]["seed"] for result in found],
        "average": mean,
        "average_sd": deviation,
        "benchmarks": {},
    }
    for name in one["benchmarks"]:
        metrics = sample_plan.metrics(one, name)
        mean, deviation = _spread([result["benchmarks"][name] for result in found], metrics)
        row["benchmarks"][name] = {"mean": mean, "mean_sd": deviation}
    return row


def _check_metrics(two: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raises UserError where two results differ in benchmarks, or in the metrics of a benchmark."""
    names = [sorted(result["benchmarks"]) for result in two.values()]
    _check_same(two, names, "--benchmarks")
    _check_same(two, [sorted(result["average"]) for result in two.values()], "--n and --metrics, or --samples")
    for name in names[0]:
        own = [sorted(sample_plan.metrics(result, name)) for result in two.values()]
        _check_same(two, own, "--n, --samples and --limit", f" of {name}")


def _check_same(folders: Iterable[Path], names: Sequence[list[str]], flags: str, of: str = "") -> None:
    if names[0] != names[1]:
        has = " and ".join(f"{at} has {', '.join(own)}{of}" for at, own in zip(folders, names, strict=True))
        raise UserError(f"{has}; evaluate both with the same {flags}")


def _spread(
    found: Sequence[Mapping[str, float]], metrics: Iterable[str]
) -> tuple[dict[str, float], dict[str, float | None]]:
    columns = {metric: [result[metric] for result in found] for metric in metrics}
    return (
        {metric: statistics.fmean(values) for metric, values in columns.items()},
        {metric: statistics.stdev(values) if len(values) > 1 else None for metric, values in columns.items()},
    )
