"""What the prompt alone changes: one model under several templates, each against the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import markdown_table
from eval.benchmark_questions import Template, load_template
from eval.paired import compare, load
from eval.store import SUMMARY, read_json
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError

COMPARISON = "templates.json"
_PREFIX = "template-"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def parse(text: str | None) -> dict[str, Template]:
    """The templates of `--templates a,b` by label, which is a part of a folder's name; none without the flag.

    Raises:
        UserError: fewer than two, one that is named twice, or one that cannot be read.
    """
    if text is None:
        return {}
    names = [name.strip() for name in text.split(",") if name.strip()]
    found: dict[str, Template] = {}
    for name in names:
        label = Path(name).name.removesuffix(".txt")
        if not _LABEL.fullmatch(label):
            raise UserError(f"--templates {text}: {name!r} gives no name for a folder; rename it")
        if label in found:
            raise UserError(f"--templates {text}: found {label} twice, expected each template once")
        found[label] = load_template(name, "--templates")
    if len(found) < 2:
        raise UserError(f"--templates {text}: expected at least two, with commas between; --template takes one")
    return found


def place(folder: Path, label: str) -> Path:
    """The folder of one template's evaluation."""
    return folder / f"{_PREFIX}{label}"


def existing(folder: Path) -> list[Path]:
    """The folders of templates that are there."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def recorded(folder: Path) -> list[str]:
    """The labels that `templates.json` compares, in order; none if there is no such file."""
    path = folder / COMPARISON
    if not path.exists():
        return []
    found = read_json(path)
    try:
        return [str(found["first"]), *map(str, found["others"])]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); run eval.run with --templates again") from None


def write_comparison(folder: Path, labels: Sequence[str]) -> None:
    """Write `templates.json` and `summary.md` of the evaluations under these templates."""
    first, *others = (load(place(folder, label)) for label in labels)
    found = {label: compare(first, other) for label, other in zip(labels[1:], others, strict=True)}
    disk.write_json(folder / COMPARISON, {"first": labels[0], "others": found})
    disk.write_text(folder / SUMMARY, markdown(labels[0], found))


def markdown(first: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each metric: the first template's value, and each other one's with its difference."""
    one = next(iter(found.values()))
    sections = one["benchmarks"] | {"average": one["average"]}
    parts = [f"# Under several templates, against {first}\n"]
    for kind in dict.fromkeys(_kind(metric) for section in sections.values() for metric in section):
        rows = []
        for name in sections:
            compared = [_row(comparison, name, kind) for comparison in found.values()]
            base = next((f"{100 * row['baseline']:.2f}" for row in compared if row), "-")
            rows.append([name, base, *map(_cell, compared)])
        parts.append(f"## {kind}\n\n{markdown_table.table(['benchmark', first, *found], rows)}")
    parts.append(
        "Percent; the difference to the first in points, paired by question, with its 95% interval. Model, sampling and "
        "questions are the same: the prompt alone differs. avg and pass are over the sampled responses.\n"
    )
    return "\n".join(parts)


def _kind(metric: str) -> str:
    return metric if metric == "pass@1" else metric.partition("@")[0]


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    low, high = row["ci95"]
    return f"{100 * row['other']:.2f}: {100 * row['difference']:+.2f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _row(comparison: Mapping[str, Any], name: str, kind: str) -> Mapping[str, Any] | None:
    section = comparison["average"] if name == "average" else comparison["benchmarks"].get(name, {})
    return next((row for metric, row in section.items() if _kind(metric) == kind), None)
