"""`benchmarks/objective.py`: the specification passed to its processes, and the limits on their figures."""

import dataclasses
import json

import pytest

from benchmarks.objective import SHAPES, Report, nll_passes
from benchmarks.objective_pass import Figures, Specification, Step


def test_a_specification_survives_the_command_line():
    spec = Specification(
        "folder", (Step(2, 20, 180, ((64, 8), (32, 4)), "sliced"), Step(1)), "step", 3, flags=("--x=1",)
    )
    assert Specification.parse(json.dumps(dataclasses.asdict(spec))) == spec


def test_tokens_count_the_context():
    assert Step(2, 20, 180, ((64, 8), (32, 4))).tokens == 400 + 108


@pytest.mark.parametrize("value", [1.2, float("nan")])
def test_a_figure_beyond_its_limit_is_named(value, capsys):
    report = Report()
    report.hold("fits", 1.1, 1.1)
    report.hold("has no limit", 9)
    report.hold("too much", value, 1.1)
    with pytest.raises(SystemExit, match=r"^error: beyond the limit: too much$"):
        report.end()
    assert "| has no limit | 9 |  |" in capsys.readouterr().out


def test_figures_within_their_limits_pass():
    report = Report()
    report.hold("fits", 1.1, 1.1)
    report.end()


def test_the_eighth_has_qwen3_8bs_shares():
    def work(shape):  # multiplications per token: layers, head, attention to 4,608 tokens (576 in the eighth)
        s, length = SHAPES[shape], 4608 * SHAPES[shape]["hidden_size"] / 4096
        heads, key_values = (s[k] * s["head_dim"] for k in ("num_attention_heads", "num_key_value_heads"))
        layer = s["hidden_size"] * (2 * heads + 2 * key_values + 3 * s["intermediate_size"])
        layers, head = s["num_hidden_layers"] * layer, s["hidden_size"] * s["vocab_size"]
        attention = s["num_hidden_layers"] * heads * length
        total = layers + head + attention
        return layers / total, head / total, attention / total

    assert work("an eighth") == pytest.approx(work("qwen3-8b"), abs=0.005)


@dataclasses.dataclass
class Passes:
    """Stand-in for a `Bench`: memory over the start by kind of NLL; 2 for hardly any tokens."""

    over_start: dict[str, float]
    device: str = "cpu"
    alone: bool = False

    def run(self, kind, *steps, repeats=1, live=True):
        assert kind == "nll"  # after the policy's pass of the same step
        return [Figures(10, 10 + (2 if s.tokens < 100 else self.over_start[s.nll]), 1.0, 0.0) for s in repeats * steps]


@pytest.mark.parametrize(
    "ours, found", [(3, None), (14, "with full fp32 logits (upstream's Actor)"), (9, "of any length")]
)
def test_the_nll_pass_is_held_to_full_logits(ours, found):
    """Compared directly with upstream's; with the leanest after subtracting what any backward takes."""
    report = Report()
    nll_passes(Passes({"mel": ours, "upstream": 110, "sliced": 40}), report, 1, large=False)
    beyond = [name for name, value, limit in report.lines if value > limit]
    assert all(found in name for name in beyond[:1]) and bool(beyond) == bool(found)
