"""The demo's figures, from correctness matrices and the lines of a run's files. Pure.

`Record` is a line of `metrics.jsonl` (one per step) or of `meta_experiences.jsonl` (one per candidate).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from eval import estimators

Record = Mapping[str, Any]
_EDGE = 5  # steps averaged for the start and for the end of a run


@dataclass(frozen=True)
class Held:
    """A checkpoint's correctness on the held-out questions.

    Attributes:
        greedy: (questions, 1), at temperature 0.
        sampled: (questions, 8).
    """

    greedy: np.ndarray
    sampled: np.ndarray


def scores(held: Held) -> dict[str, Any]:
    """Pass@1, Avg@8 with its interval over questions, and Pass@8."""
    average = estimators.avg_estimate(held.sampled)
    return {
        "pass@1": estimators.avg_at_n(held.greedy),
        "avg@8": average.value,
        "pass@8": estimators.pass_at_k(held.sampled, 8),
        "avg@8_ci95": list(average.interval),
    }


def gain(held: Held, base: Held) -> dict[str, Any]:
    """The paired difference of Avg@8 to the base model on the same questions."""
    difference = estimators.paired_difference(held.sampled, base.sampled)
    return {"avg@8": difference.value, "ci95": list(difference.interval)}


def training(steps: Sequence[Record], candidates: Sequence[Record], mel: bool) -> dict[str, Any]:
    """A run's own figures; those of meta-experiences are None for the baseline, and when there were none.

    Args:
        steps: the run's metrics, in order.
        candidates: the run's archive.
    """
    kept = [row for row in candidates if row["kept"]]
    # A step without a kept M has no meaningful NLL.
    nll = [row["loss/nll"] for row in steps if row.get("mel/kept") and "loss/nll" in row]
    rewards = [row["reward_mean"] for row in steps]
    return {
        "reward_first5": _mean(rewards[:_EDGE]),
        "reward_last5": _mean(rewards[-_EDGE:]),
        "retention_ratio": len(kept) / len(candidates) if mel and candidates else None,
        "distinct_share": len({row["text"] for row in kept}) / len(kept) if mel and kept else None,
        "nll_first5": _mean(nll[:_EDGE]) if mel else None,
        "nll_last5": _mean(nll[-_EDGE:]) if mel else None,
        "steps": len(steps),
        "tokens": sum(row["rollout/tokens"] + row.get("mel/tokens", 0) for row in steps),
        "seconds": steps[-1]["seconds"] if steps else None,
    }


def table(summary: Mapping[str, Any], held: Mapping[str, Held]) -> str:
    """The scores as text, each with its 95% interval, and the gains over the base model."""
    lines = [f"{'':<6}{'Pass@1 (greedy)':>22}{'Avg@8':>22}{'Pass@8':>10}{'gain of Avg@8':>26}"]
    for name, matrices in held.items():
        row = summary[name]
        right, total = int(matrices.greedy.sum()), matrices.greedy.size
        pass_1 = _with_interval(row["pass@1"], estimators.wilson_interval(right, total))
        avg_8 = _with_interval(row["avg@8"], row["avg@8_ci95"])
        gained = summary["gain_over_base"].get(name)
        gain_text = f"{gained['avg@8']:+.3f} [{gained['ci95'][0]:+.3f}, {gained['ci95'][1]:+.3f}]" if gained else ""
        lines.append(f"{name:<6}{pass_1:>22}{avg_8:>22}{row['pass@8']:>10.3f}{gain_text:>26}")
    return "\n".join(lines)


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
