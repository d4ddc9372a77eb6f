"""The sources of questions, read from `data/sources.yaml` and `data/benchmarks.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from data.golds import READERS
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH, check_scorer_name

ROOT = Path(__file__).resolve().parents[1]
CUSTOM = "custom"
TRAINING, BENCHMARKS = ROOT / "data" / "sources.yaml", ROOT / "data" / "benchmarks.yaml"


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub. `file` is the file to download by hand where the hub cannot be reached."""

    repo: str
    split: str
    file: str
    config: str | None = None


@dataclass(frozen=True)
class Form:
    """One of the column layouts in which a source is published.

    Attributes:
        question, answer: columns; the field of a nested column as `column.field`.
        read: where the answer is in its cell: `plain` (the whole cell), `boxed`, `hashes` (after "####"), `list`.
        where: column -> values; rows with another value are left out.
        unit, tolerance: columns with the answer's unit, and with the allowed distance from it.
        options: columns of a choice's wrong options; `answer` is then the right one's text. The question gets all of
            them, shuffled (`data/shuffled_options.py`), and the answer is its letter.
    """

    question: str
    answer: str
    read: str = "plain"
    where: dict[str, list[str]] = field(default_factory=dict)
    unit: str | None = None
    tolerance: str | None = None
    options: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The columns that a row must have."""
        extent = filter(None, (self.unit, self.tolerance))
        return [self.question, self.answer, *self.where, *extent, *self.options]

    def selects(self, cells: Mapping[str, Any]) -> bool:
        """Whether `where` selects a row with these cells."""
        return all(str(cells[column]) in values for column, values in self.where.items())


@dataclass(frozen=True)
class Source:
    """A training set or a benchmark.

    Attributes:
        forms: tried in this order.
        prefix, suffix: the source's texts before and after each question.
        answer: the scorer that judges answers (docs/verifier.md): `math`, `choice`, or one's own by its dotted path.
        questions: a benchmark's number of questions; several numbers when copies differ.
        known: content hash -> the copy that it was computed from. It lists only copies that were seen.
        license: as its publisher names it.
        published: the first day on which any of its questions was public; None: not known.
        older: its questions are older than that: they were collected, and `published` is the set's own day.
        on_request: prepared only where `--only` names it.
        withheld: its authors ask that questions are not published in plain text.
    """

    name: str
    forms: tuple[Form, ...]
    about: str = ""
    hub: Hub | None = None
    prefix: str = ""
    suffix: str = ""
    answer: str = MATH
    questions: tuple[int, ...] = ()
    known: dict[str, str] = field(default_factory=dict)
    license: str = ""
    published: date | None = None
    older: bool = False
    on_request: bool = False
    withheld: bool = False

    def unwrapped(self, text: str) -> str:
        """The question without the source's prefix and suffix."""
        return text.removeprefix(self.prefix).removesuffix(self.suffix)

    def form_for(self, columns: Iterable[str], name: str) -> Form:
        """The first form whose columns all exist. Raises UserError naming what was found and expected."""
        there = list(columns)
        for form in self.forms:
            if all(column in there for column in form.columns):
                return form
        expected = " | ".join(" + ".join(form.columns) for form in self.forms)
        hint = "; name yours by --question-column and --answer-column" if self.name == CUSTOM else ""
        raise UserError(f"{name}: no known columns of {self.name}; found {', '.join(there)}; expected {expected}{hint}")


def download_command(hub: Hub, revision: str | None = None) -> str:
    """The download command for a node with internet."""
    at = f" --revision {revision}" if revision else ""
    return f"hf download {hub.repo} {hub.file} --repo-type dataset --local-dir FOLDER{at}"


def load(path: Path) -> dict[str, Source]:
    """Read a file of sources. Raises UserError naming the file and the entry at fault."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(entries, dict):
        raise UserError(f"{path}: found {type(entries).__name__}, expected `name: {{about, forms, ...}}`")
    return {str(name): _source(path, str(name), entry) for name, entry in entries.items()}


def _source(path: Path, name: str, entry: Any) -> Source:
    values = _checked(f"{path}: {name}", entry, Source, name=name)
    if not isinstance(values["forms"], list) or not values["forms"]:
        raise UserError(
            f"{path}: {name}: forms: found {values['forms']!r:.80}, expected a list of {{question, answer}}"
        )
    values["forms"] = tuple(_form(f"{path}: {name}: forms", form) for form in values["forms"])
    if values.get("hub"):
        values["hub"] = Hub(**_checked(f"{path}: {name}: hub", values["hub"], Hub))
    if not isinstance(values.get("known", {}), dict):
        raise UserError(f"{path}: {name}: known: found {values['known']!r:.80}, expected `hash: what it is`")
    if not isinstance(values.get("published"), date | None):  # YAML reads 2026-02-05 as a date
        raise UserError(f"{path}: {name}: published: found {values['published']!r:.80}, expected YYYY-MM-DD")
    try:
        check_scorer_name(values.get("answer", MATH))
    except UserError as error:
        raise UserError(f"{path}: {name}: answer: {error}") from None
    questions = values.get("questions") or ()
    values["questions"] = tuple(questions) if isinstance(questions, list | tuple) else (questions,)
    return Source(**values)


def _form(where: str, entry: Any) -> Form:
    form = Form(**_checked(where, entry, Form))
    for name in ("question", "answer", "unit", "tolerance"):
        if not isinstance(getattr(form, name), str | None):
            raise UserError(f"{where}: {name}: found {getattr(form, name)!r}, expected the name of a column")
    if not isinstance(form.where, dict) or not all(isinstance(values, list) for values in form.where.values()):
        raise UserError(f"{where}: where: found {form.where!r:.80}, expected `column: [value, ...]`")
    if not isinstance(form.options, list) or not all(isinstance(column, str) for column in form.options):
        raise UserError(f"{where}: options: found {form.options!r:.80}, expected a list of columns")
    if form.read not in READERS:
        raise UserError(f"{where}: read: found {form.read!r}, expected one of {', '.join(READERS)}")
    return form


def _checked(where: str, entry: Any, kind: type, **given: str) -> dict[str, Any]:
    """The entry, after checking that all its keys are known and none is missing."""
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind) if f.name not in given}
    expected = ", ".join(f"{name} (needed)" if needed else name for name, needed in known.items())
    if not isinstance(entry, dict):
        raise UserError(f"{where}: found {entry!r:.80}, expected the keys {expected}")
    for name in entry:
        if name not in known:
            raise UserError(f"{where}: unknown key {name!r}, expected {expected}")
    for name, needed in known.items():
        if needed and name not in entry:
            raise UserError(f"{where}: no {name!r}, expected {expected}")
    return given | entry
