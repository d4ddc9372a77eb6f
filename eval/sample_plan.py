"""How many samples each benchmark's questions get: the same n everywhere, or by the benchmark's size. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.identity import Draws
from openrlhf_mel.errors import UserError

PAPER = 8
STANDARD, SMALL = 16, 32  # responses a question; of benchmarks with at most SMALL_UP_TO questions
SMALL_UP_TO = 40  # AIME, HMMT, BRUMO and AMC: their few questions leave a wide interval
PRESETS = ("paper", "standard")


def plan(preset: str | None, n: int | None, metrics: str | None, sizes: Mapping[str, int]) -> dict[str, Draws]:
    """Benchmark -> its draws, from `--samples`, `--n` and `--metrics`.

    Args:
        preset: `paper` (1 greedy and 8 sampled responses), `standard` (1 and 16, small benchmarks 1 and 32), or None.
        n: of all benchmarks; None is the paper's 8.
        sizes: benchmark -> its number of questions.

    Raises:
        UserError: flags that exclude each other, or a metric that n samples cannot give.
    """
    if preset and n is not None:
        raise UserError(f"--samples {preset}: sets the number of samples itself; leave out --n {n}")
    if preset == "standard":
        if metrics is not None:
            raise UserError("--samples standard: has an n of its own for each benchmark; leave out --metrics")
        return {name: Draws.parse(SMALL if size <= SMALL_UP_TO else STANDARD, None) for name, size in sizes.items()}
    draws = Draws.parse(PAPER if n is None else n, metrics)
    return dict.fromkeys(sizes, draws)


def recorded(draws: Mapping[str, Draws]) -> dict[str, Any]:
    """`n` and `metrics` for the results: once where all benchmarks have the same, else by benchmark."""
    if len(set(draws.values())) == 1:
        (one,) = set(draws.values())
        return {"n": one.n, "metrics": list(one.metrics)}
    return {
        "n": {name: own.n for name, own in draws.items()},
        "metrics": {name: list(own.metrics) for name, own in draws.items()},
    }


def metrics(result: Mapping[str, Any], name: str) -> list[str]:
    """The metrics of a benchmark in a metrics.json: those with an average, or its own where benchmarks differ in n."""
    named = result["settings"].get("metrics")
    return list(named[name]) if isinstance(named, dict) else list(result["average"])


def read(settings: Mapping[str, Any], names: list[str]) -> dict[str, Draws]:
    """The draws that `recorded` wrote, of the benchmarks `names`.

    Raises:
        KeyError, TypeError, ValueError, UserError: it did not write this.
    """
    n, metrics = settings["n"], settings["metrics"]
    if isinstance(n, dict):
        return {name: Draws.parse(int(n[name] or 1), ",".join(metrics[name])) for name in names}
    return dict.fromkeys(names, Draws.parse(int(n or 1), ",".join(metrics)))
