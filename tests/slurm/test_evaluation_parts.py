"""slurm/lib/evaluate.py: which flags win, and which parts are merged."""

import json
import re
from pathlib import Path

import pytest

from openrlhf_mel.errors import UserError
from slurm.lib import evaluate

pytestmark = pytest.mark.timeout(60)
REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("config", "given", "samples", "n"),
    [
        ("paper", ["--samples", "standard"], "standard", None),
        ("paper", ["--samples=standard"], "standard", None),
        ("standard", ["--n", "4"], None, 4),
        ("paper", ["--n=4"], None, 4),
        ("paper", [], None, 8),
        ("paper", ["--samples", "paper", "--n", "4"], "paper", 4),  # which eval.run refuses
    ],
)
def test_the_command_lines_number_of_samples_wins(config, given, samples, n):
    path = REPO / "slurm" / "configs" / "eval" / f"{config}.yaml"
    flags, _, _ = evaluate.read(["--config", str(path), "--model", "m", "--output-dir", "out", *given])
    found = evaluate.arguments.parser().parse_args(flags)
    assert (found.samples, found.n) == (samples, n)


@pytest.mark.parametrize("merged", [False, True])
def test_parts_of_other_sampling_are_not_merged(merged, tmp_path):
    """Either two parts, or a part and what an earlier command merged."""
    places = [tmp_path if merged else tmp_path / "parts" / "a", tmp_path / "parts" / "b"]
    for place, length in zip(places, (80, 70), strict=True):
        (place / "questions").mkdir(parents=True)
        (place / "settings.json").write_text(json.dumps({"sampling": {"max_tokens": length, "shortened_from": 90}}))
    options = evaluate.arguments.parser().parse_args(["--model", "m", "--data-dir", "d", "--output-dir", str(tmp_path)])
    everything = [evaluate.Part(place.name, place, []) for place in places[merged:]]
    says = f"{places[0]} and {places[1]}: found samples of other settings, sampling.max_tokens: 80 -> 70; "
    with pytest.raises(UserError, match=re.escape(says)):
        evaluate.merge_benchmarks([], options, everything)
    assert not (tmp_path / "samples").exists()
