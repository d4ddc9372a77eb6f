"""`summary.md`: the table in percent, beside the paper's row, with its settings and notes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.markdown_table import one_line, table
from eval.messages import THINKING_CUT
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH

PAPER = Path(__file__).with_name("paper_table1.json")
METHODS = ("base", "grpo", "mel")


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Table 1: benchmark (and "average") -> metric -> percent.

    Attributes:
        key: the value of `--paper`.
    """

    key: str
    name: str
    values: dict[str, dict[str, float]]


def paper_row(model: str, method: str | None = None) -> PaperRow | None:
    """The row of a model of the paper, by the last part of its name ("Qwen3-8B-Base"), or by `SIZE:METHOD`; else None.

    Args:
        method: `base`, `grpo` or `mel`: the training of a checkpoint of that model.
    """
    paper = json.loads(PAPER.read_text(encoding="utf-8"))
    size, _, named = model.partition(":")
    if size not in paper["rows"]:
        last = model.rstrip("/").rpartition("/")[2].lower()
        size = next((size for size, name in paper["models"].items() if name.lower() == last), "")
        named = method or "base"
    row = paper["rows"].get(size, {}).get(named.lower())
    if row is None:
        return None
    values = {name: dict(zip(paper["metrics"], cells, strict=True)) for name, cells in row.items()}
    return PaperRow(f"{size}:{named.lower()}", f"{paper['models'][size]}, {named.lower()}", values)


def check_paper_row(text: str) -> PaperRow:
    """The row that `--paper SIZE:METHOD` names. Raises UserError naming the known ones."""
    row = paper_row(text)
    if row is None or ":" not in text:
        sizes = json.loads(PAPER.read_text(encoding="utf-8"))["rows"]
        raise UserError(f"--paper {text}: expected SIZE:METHOD with {', '.join(sizes)} and {', '.join(METHODS)}")
    return row


def read_contamination(path: Path) -> dict[str, dict[str, int]]:
    """Benchmark -> `near`: how many of its `questions` have a near copy in the training set, by prepare_train.py's report.json.

    Raises:
        UserError: no such report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: {key: int(found[key]) for key in ("near", "questions")}
            for name, found in report["contamination"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--train-report {path}: not a report of data/prepare_train.py ({error})") from None


def checkpoints_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row per checkpoint: each metric on average, then on each benchmark."""
    names = list(dict.fromkeys(name for row in rows for name in row["benchmarks"]))
    parts = ["# Checkpoints\n"]
    places = [place for row in rows for place in (row["average"], *row["benchmarks"].values())]
    for metric in dict.fromkeys(metric for place in places for metric in place):
        cells = [
            [
                row["label"],
                "-" if row["step"] is None else str(row["step"]),
                _cell(row["average"].get(metric), row["average_ci95"].get(metric)),
                *(_percent(row["benchmarks"].get(name, {}).get(metric)) for name in names),
            ]
            for row in rows
        ]
        parts.append(f"## {metric}\n\n{table(['checkpoint', 'step', 'average', *names], cells)}")
    last = "Percent; the average with its 95% interval. Each checkpoint's own summary has the notes on these.\n"
    return "\n".join([*parts, last])


def seeds_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of each model a table: mean and standard deviation of each metric between the seeds."""
    parts = ["# Several seeds\n"]
    for row in rows:
        metrics = list(dict.fromkeys(m for own in row["benchmarks"].values() for m in own["mean"]))
        cells = [
            [name, *(_spread(own["mean"], own["mean_sd"], metric) for metric in metrics)]
            for name, own in row["benchmarks"].items()
        ]
        cells.append(["average", *(_spread(row["average"], row["average_sd"], metric) for metric in metrics)])
        count, seeds = len(row["seeds"]), ", ".join(map(str, row["seeds"]))
        parts.append(f"## {one_line(row['model'])}: {count} seed{'' if count == 1 else 's'} ({seeds})\n")
        if limit := row["limit"]:
            parts.append(f"Only the first {limit} questions of each benchmark: not to be compared with whole ones.\n")
        parts.append(table(["benchmark", *metrics], cells))
    parts.append(
        "Percent: mean and, after ±, the standard deviation between seeds. It is the noise of the sampled responses alone "
        "(of a greedy one there is none); each seed's own summary has the intervals over questions.\n"
    )
    return "\n".join(parts)


def markdown(result: Mapping[str, Any], paper: PaperRow | None) -> str:
    """The whole file, from the content of metrics.json."""
    contamination = result["manifest"].get("near_in_training")
    metrics = _metrics(result)
    parts = [f"# {one_line(result['model'])}\n"]
    if limit := result["manifest"].get("limit"):
        parts.append(f"Only the first {limit} questions of each benchmark: not to be compared with whole ones.\n")
    parts += [_scores(result, metrics, contamination)]
    if paper:
        parts.append(_beside_the_paper(result, metrics, paper))
    parts += [_shares(result, _columns(result, metrics)), _settings(result)]
    return "\n".join(parts)


def _metrics(result: Mapping[str, Any]) -> list[str]:
    """Those with an average."""
    return [metric for metric, value in result["average"].items() if value is not None]


def _columns(result: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Heading -> benchmark -> metric: the metrics themselves, or, where benchmarks differ in n, their kinds."""
    named = result["settings"].get("metrics")
    if not isinstance(named, dict):
        return {metric: dict.fromkeys(result["benchmarks"], metric) for metric in metrics}
    found: dict[str, dict[str, str]] = {}
    for name, own in named.items():
        for metric in own:
            found.setdefault(metric if metric in metrics else metric.partition("@")[0], {})[name] = metric
    return found


def _scores(result: Mapping[str, Any], metrics: Sequence[str], contamination: Mapping[str, Any] | None) -> str:
    columns = _columns(result, metrics)
    mixed = list(columns) != list(metrics)
    head = ["benchmark", "questions", *columns, *(["near copies in training"] if contamination is not None else [])]
    rows: list[list[str]] = []
    notes: list[str] = []
    for name, found in result["benchmarks"].items():
        cells = [name, str(found["n_questions"])]
        for heading, by_benchmark in columns.items():
            metric = by_benchmark.get(name, heading)
            mark = _mark(found["ci95_note"].get(metric), notes)
            n = "" if metric == heading else f" ({metric.partition('@')[2]})"
            cells.append(_cell(found.get(metric), found["ci95"].get(metric)) + n + mark)
        if contamination is not None:
            near = contamination.get(name)
            cells.append("not compared" if near is None else f"{near['near']} of {near['questions']}")
        rows.append(cells)
    average = [
        _cell(result["average"].get(metric), result["average_ci95"].get(metric))
        + _mark(result["average_ci95_note"].get(metric), notes)
        for metric in columns
    ]
    rows.append(["average", "", *average, *([""] if contamination is not None else [])])
    methods = {
        heading: dict.fromkeys(result["benchmarks"][name]["ci95_method"][metric] for name, metric in own.items())
        for heading, own in columns.items()
    }
    lines = [
        "Percent, with 95% intervals over questions. "
        + "; ".join(f"{heading}: {' or '.join(found)}" for heading, found in methods.items())
        + ".",
        *(["In brackets n; extended.md has averages over benchmarks of different n."] if mixed else []),
        *(f"[{i}] {note}" for i, note in enumerate(notes, start=1)),
        *_scorers(result),
    ]
    return f"{table(head, rows)}\n" + "\n".join(lines) + "\n"


def _scorers(result: Mapping[str, Any]) -> list[str]:
    """A line that names the scorers, where one is not `math`."""
    found = {name: entry.get("scorer", MATH) for name, entry in result["benchmarks"].items()}
    named = ", ".join(f"{name} by {scorer}" for name, scorer in found.items() if scorer != MATH)
    return [f"Judged: {named}; others by {MATH}."] if named else []


def _beside_the_paper(result: Mapping[str, Any], metrics: Sequence[str], paper: PaperRow) -> str:
    head = [
        "benchmark",
        *(f"{metric}: here, paper, difference" for metric in metrics if metric in paper.values["average"]),
    ]
    rows = []
    for name, found in [*result["benchmarks"].items(), ("average", None)]:
        theirs = paper.values.get(name)
        if theirs is None or (found is None and not _same_benchmarks(result, paper)):
            continue
        ours = found or result["average"]
        intervals = found["ci95"] if found else result["average_ci95"]
        rows.append(
            [name, *(_against(ours[m], theirs[m], intervals.get(m)) for m in metrics if m in paper.values["average"])]
        )
    if not rows or len(head) == 1:
        return f"The paper's row ({paper.name}) has none of these benchmarks and metrics.\n"
    return f"## Beside the paper: {paper.name}\n\n{table(head, rows)}\nIn or out: whether the paper's value lies in the 95% interval here.\n"


def _same_benchmarks(result: Mapping[str, Any], paper: PaperRow) -> bool:
    """Averages are only comparable over the same benchmarks."""
    return set(result["benchmarks"]) == set(paper.values) - {"average"}


def _shares(result: Mapping[str, Any], columns: Mapping[str, Mapping[str, str]]) -> str:
    thinking = any(THINKING_CUT in found for found in result["benchmarks"].values())
    kinds = ("truncated", *([THINKING_CUT] if thinking else []), "no_answer", "timeout", "error")
    head = ["benchmark", "samples", *kinds, *(f"lenient {heading}" for heading in columns)]
    rows = [
        [
            name,
            str(found["n_samples"]),
            *(_percent(found.get(kind)) for kind in kinds),
            *(_percent(found["lenient"].get(own.get(name, heading))) for heading, own in columns.items()),
        ]
        for name, found in result["benchmarks"].items()
    ]
    ends = {name: found.get("ended_otherwise") or {} for name, found in result["benchmarks"].items()}
    told = [f"{name}: {reason} {count}" for name, own in ends.items() for reason, count in sorted(own.items())]
    return (
        f"## Samples\n\n{table(head, rows)}\n"
        "Shares of all samples. Lenient extraction also counts answers that are not marked as final, even of responses that were cut.\n"
        + ("thinking_cut: cut while thinking; these are truncated, and have no answer.\n" if thinking else "")
        + (f"Ended neither by `stop` nor by `length`, in the server's words: {'; '.join(told)}.\n" if told else "")
    )


def _settings(result: Mapping[str, Any]) -> str:
    return f"## Settings\n\n```json\n{json.dumps(result['settings'], indent=2, ensure_ascii=False)}\n```\n"


def _mark(note: str | None, notes: list[str]) -> str:
    """The number of a note, which is added to `notes` if it is new."""
    if note is None:
        return ""
    if note not in notes:
        notes.append(note)
    return f" [{notes.index(note) + 1}]"


def _cell(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return _percent(value) + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _spread(means: Mapping[str, float], deviations: Mapping[str, float | None], metric: str) -> str:
    deviation = deviations.get(metric)
    return _percent(means.get(metric)) + (f" ± {_percent(deviation)}" if deviation is not None else "")


def _against(ours: float | None, theirs: float, interval: Sequence[float] | None) -> str:
    if ours is None:
        return "-"
    where = ""
    if interval:
        where = ", in" if interval[0] <= theirs / 100 <= interval[1] else ", out"
    return f"{100 * ours:.2f}, {theirs:.2f}, {100 * ours - theirs:+.2f}{where}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
