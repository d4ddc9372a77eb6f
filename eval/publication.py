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


def published_days() -> dict[str, date]:
    """Benchmark -> the first day on which any of its questions was public, of those whose day is known."""
    return {name: s.published for name, s in sources.load(sources.BENCHMARKS).items() if s.published}


def is_clean(published: date | None, end: DataEnd) -> bool | None:
    """Whether a benchmark was published after the model's data ended; None where one of the two days is not known.

    On the same day it may be in the data.
    """
    if published is None or end.day is None:
        return None
    return published > end.day
