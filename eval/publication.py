"""Was a benchmark public before a model's data ended?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml

from data import sources

MODEL_DATES = Path(__file__).with_name("model_dates.yaml")


@dataclass(frozen=True)
class DataEnd:
    """The last day from which a model's data may be.

    Attributes:
        day: None where it is not known.
        source: where it is from, for the results.
    """

    day: date | None = None
    source: str = "unknown"


def data_end(model: str, given: date | None) -> DataEnd:
    """From `--model-date`, else of a model of the presets, by the last part of its name."""
    if given:
        return DataEnd(given, "--model-date")
    known = yaml.safe_load(MODEL_DATES.read_text(encoding="utf-8"))
    last = model.rstrip("/").rpartition("/")[2].lower()
    found = next((entry for name, entry in known.items() if name.lower() == last), None)
    return DataEnd(found["released"], f"{MODEL_DATES.name}: its release") if found else DataEnd()


@dataclass(frozen=True)
class Publication:
    """When a benchmark's first question was public.

    Attributes:
        day: None where it is not known.
        older: the day is that of the set, which collects older questions.
    """

    day: date | None = None
    older: bool = False


def publications() -> dict[str, Publication]:
    """Those of the known benchmarks."""
    return {name: Publication(s.published, s.older) for name, s in sources.load(sources.BENCHMARKS).items()}


def is_clean(publication: Publication, end: DataEnd) -> bool | None:
    """Whether a benchmark was public only after the model's data ended; None where that is not known.

    On the same day it may be in the data. Collected questions may be in it before the set was published.
    """
    if publication.day is None or end.day is None:
        return None
    if publication.day <= end.day:
        return False
    return None if publication.older else True
