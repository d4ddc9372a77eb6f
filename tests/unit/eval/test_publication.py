"""Was a benchmark public before a model's data ended?"""

from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from eval.publication import DataEnd, Publication, data_end, is_clean, publications

pytestmark = pytest.mark.timeout(30)
DAY = date(2026, 2, 5)
REPO = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("published", "end", "clean"),
    [
        (DAY, DAY - timedelta(1), True),
        (DAY, DAY, False),  # it may be in the data of its own day
        (DAY, DAY + timedelta(1), False),
        (None, DAY, None),
        (DAY, None, None),
        (None, None, None),
    ],
)
def test_only_what_is_known_to_be_younger_is_clean(published, end, clean):
    assert is_clean(Publication(published), DataEnd(end)) is clean
    # What was collected may have been public before: never clean, but known not to be where the set is old enough.
    assert is_clean(Publication(published, older=True), DataEnd(end)) is (clean and None)


def test_a_models_date_is_known_given_or_unknown():
    for name in ("Qwen/Qwen3-8B-Base", "/models/qwen3-8b-base/", "Qwen3-8B-Base"):
        assert data_end(name, None).day == date(2025, 4, 28)
    assert data_end("Qwen/Qwen3-8B-Base", DAY) == DataEnd(DAY, "--model-date")
    for name in ("Qwen/Qwen3-8B", "", "my/model"):
        assert data_end(name, None) == DataEnd(None, "unknown")


def test_every_presets_model_has_a_date():
    for path in (REPO / "slurm" / "configs" / "train").glob("*.yaml"):
        model = yaml.safe_load(path.read_text())["actor"]["model_name_or_path"]
        assert data_end(model, None).day or model.startswith("data/"), path.name


def test_aime_2026_is_clean_for_the_papers_models_and_math500_for_none():
    days = publications()
    end = data_end("Qwen/Qwen3-14B-Base", None)
    assert is_clean(days["aime26"], end) and is_clean(days["hmmt_feb26"], end) and is_clean(days["hmmt_nov25"], end)
    for name in ("math500", "aime24", "aime25", "amc23", "olympiadbench", "gpqa_diamond", "olymmath_hard"):
        assert is_clean(days[name], end) is False, name
