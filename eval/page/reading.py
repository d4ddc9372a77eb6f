"""Reads and checks an evaluation's folder for the report. Its content is not trusted: a model wrote the responses."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eval import seed_folders
from eval.messages import THINKING_CUT, Question
from eval.store import METRICS, SAMPLES, SETTINGS, Sample, read_json, read_questions, read_samples
from openrlhf_mel.errors import UserError

_METRIC = re.compile(r"(pass|avg|maj)@([1-9]\d*)")
_FAMILIES = ("pass@1", "avg", "pass", "maj")
SHARES = ("truncated", "no_answer", "timeout", "error")
_AGAIN = "run python -m eval.run into that folder again"

Flat = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The results of one evaluation by eval.run.

    Attributes:
        label: its name on the page.
        metrics: its metrics.json, checked by `read`.
    """

    folder: Path
    label: str
    metrics: dict[str, Any]

    @property
    def model(self) -> str:
        """The model's name in the results."""
        name: str = self.metrics["model"]
        return name

    @property
    def benchmarks(self) -> dict[str, dict[str, Any]]:
        """Benchmark -> its fields in metrics.json."""
        fields: dict[str, dict[str, Any]] = self.metrics["benchmarks"]
        return fields

    @cached_property
    def settings(self) -> Flat:
        """The settings, nested ones under dotted names."""
        return flatten(self.metrics["settings"])

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest: time, versions and commit."""
        found = self.metrics.get("manifest")
        return found if isinstance(found, dict) else {}

    @property
    def step(self) -> int | None:
        """The training step of a checkpoint, from the settings or the manifest."""
        found = self._setting("step")
        step = self.manifest.get("step") if found is None else found
        return step if isinstance(step, int) and not isinstance(step, bool) else None

    @property
    def run(self) -> str:
        """A checkpoint's training run: from the settings, else from its name, `RUN/CHECKPOINT`."""
        return str(self._setting("run") or self.model.rpartition("/")[0] or "run")

    def drawn(self, benchmark: str) -> tuple[bool, int]:
        """Whether each question of `benchmark` has a greedy response, and its number of sampled ones."""
        values = self.benchmarks[benchmark]
        sizes = [int(k) for k, value in pass_at_k(values).items() if value is not None]
        sizes += [metric_key(name)[1] for name in metric_names([values]) if name != "pass@1"]
        return values.get("pass@1") is not None, max(sizes, default=0)

    def questions(
        self, benchmark: str, kept: Callable[[Sample], Sample] = lambda sample: sample
    ) -> Iterator[tuple[Question, list[Sample]]]:
        """Each question with the samples behind the metrics: the greedy one, then the sampled ones in order.

        All of them are held in memory at once, each as what `kept` gives for it.

        Raises:
            UserError: a file is missing or damaged, or a sample is.
        """
        path = self.folder / SAMPLES / f"{benchmark}.jsonl"
        questions = read_questions(self.folder, benchmark)
        count = self.benchmarks[benchmark].get("n_questions")
        if len(questions) != count:
            raise UserError(
                f"{self.folder}: {METRICS} counts {count} questions of {benchmark}, questions/{benchmark}.jsonl has "
                f"{len(questions)}; {_AGAIN}"
            )
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {METRICS} has numbers of {benchmark}; {_AGAIN}")
        greedy, n = self.drawn(benchmark)
        found: dict[str, dict[tuple[bool, int], Sample]] = defaultdict(dict)
        for sample in read_samples(path):
            found[sample.question][not sample.greedy, sample.sample] = kept(sample)
        wanted = ([(False, 0)] if greedy else []) + [(True, number) for number in range(n)]
        for question in questions:
            samples = found.pop(question.id, {})
            missing = [key for key in wanted if key not in samples]
            if missing:
                raise UserError(
                    f"{path}: question {question.id!r} lacks {len(missing)} of the {len(wanted)} samples that "
                    f"{METRICS} counts; {_AGAIN}"
                )
            yield question, [samples[key] for key in wanted]

    def _setting(self, name: str) -> Any:
        return next((value for key, value in self.settings.items() if key.rpartition(".")[2] == name), None)


def find(folder: Path) -> list[Path]:
    """The folder itself, or those of a run's checkpoints or a model's seeds in it, in the order of their steps or numbers.

    Raises:
        UserError: it holds several seeds of a run's checkpoints: a run's curve is drawn of one seed.
    """
    seeds = seed_folders.existing(folder)
    # Earlier versions wrote, beside the seeds of a Slurm array, a metrics.json of its own kind.
    if (folder / METRICS).exists() and ((folder / SETTINGS).exists() or not seeds):
        return [folder]
    inner = [path.parent for path in folder.glob(f"*/{METRICS}")]
    if not inner and seeds:
        raise UserError(f"{folder}: holds several seeds; name one of {', '.join(map(str, seeds))}")
    # Every second part is a number: 20 comes before 100.
    parts = {path: re.split(r"(\d+)", path.name) for path in inner}
    return sorted(inner, key=lambda p: [int(x) if i % 2 else x for i, x in enumerate(parts[p])]) or [folder]


def read(folder: Path, label: str) -> Evaluation:
    """Read metrics.json.

    Raises:
        UserError: the folder or the file is missing, or does not have the form that eval.run writes.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one that python -m eval.run wrote")
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{path}: no such file; the evaluation is not finished: {_AGAIN}")
    metrics = read_json(path)
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: found {_kind(metrics)}, expected an object; {_AGAIN}")
    expected = {"model": str, "benchmarks": dict, "average": dict, "settings": dict}
    for key, kind in expected.items():
        if not isinstance(metrics.get(key), kind):
            raise UserError(f"{path}: {key!r} is {_kind(metrics.get(key))}, expected {kind.__name__}; {_AGAIN}")
    if not metrics["benchmarks"]:
        raise UserError(f"{path}: has no benchmark; {_AGAIN}")
    for name, values in metrics["benchmarks"].items():
        if not isinstance(values, dict) or Path(name).name != name:
            raise UserError(f"{path}: benchmark {name!r} is damaged; {_AGAIN}")
        _check_numbers(path, name, values, values.get("ci95"))
        _check_numbers(path, f"{name}: pass@k", pass_at_k(values), None)
        _check_numbers(path, f"{name}: lenient", values.get("lenient") or {}, None)
    _check_numbers(path, "average", metrics["average"], metrics.get("average_ci95"))
    return Evaluation(folder, label, metrics)


def metric_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics for which at least one of `rows` has a value, in the order of the paper's table."""
    found = {name for row in rows for name, value in row.items() if _METRIC.fullmatch(name) and value is not None}
    return sorted(found, key=metric_key)


def metric_key(name: str) -> tuple[int, int]:
    """Sort key of a metric: its family, then its number."""
    metric = _METRIC.fullmatch(name)
    assert metric, f"{name} is no metric"
    family, number = metric.groups()
    return _FAMILIES.index(name if name == "pass@1" else family), int(number)


def pass_at_k(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Pass@k by k, of the sampled responses; empty when there are none."""
    return values.get("pass@k") or {}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Flat:
    """Nested mappings as one, `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: Flat = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _check_numbers(path: Path, where: str, values: Any, intervals: Any) -> None:
    """Every metric and share is a fraction or null, every interval two of them."""
    numbers: dict[str, Any] = {}
    if isinstance(values, dict):
        numbers = {
            k: v for k, v in values.items() if _METRIC.fullmatch(k) or k in (*SHARES, THINKING_CUT) or k.isdigit()
        }
    for name, pair in (intervals or {}).items():
        low, high = pair if isinstance(pair, list) and len(pair) == 2 else (pair, pair) if pair is None else ("", "")
        numbers |= {f"{name} (ci95)": low, f"{name} (ci95, high)": high}
    for name, value in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise UserError(f"{path}: {where}: {name} is {value!r}, expected a fraction or null; {_AGAIN}")


def _kind(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
