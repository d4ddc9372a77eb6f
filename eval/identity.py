"""The settings that could change a sample, and the samples that a run should have. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eval.benchmark_questions import Benchmark, Template
from eval.messages import Request, Sampling
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH

_METRIC = re.compile(r"(pass|avg|maj)@(0|[1-9][0-9]{0,8})")  # one form for each, so that none occurs twice
_SHA256 = re.compile(r"[0-9a-f]{64}")
GREEDY = "pass@1"
_UNCOMPARED = {"template": {"name"}, "sampling": {"shortened_from"}}


@dataclass(frozen=True)
class Draws:
    """The wanted metrics, and the samples that they need.

    Attributes:
        n: sampled responses of each question, 0 for none.
        greedy: whether a greedy one is drawn.
        metrics: their names in the order of the table.
    """

    n: int
    greedy: bool
    metrics: tuple[str, ...]

    @classmethod
    def parse(cls, n: int, text: str | None) -> Draws:
        """From `--n` and `--metrics`.

        Raises:
            UserError: a metric that n samples cannot give.
        """
        if n < 1:
            raise UserError(f"--n {n}: expected at least 1 sampled response a question")
        every = [GREEDY, f"avg@{n}", *([f"pass@{n}"] if n > 1 else []), f"maj@{n}"]
        metrics = (
            every if text is None else list(dict.fromkeys(m.strip().lower() for m in text.split(",") if m.strip()))
        )
        if not metrics:
            raise UserError("--metrics: found none, expected some of pass@1, avg@<n>, pass@<k>, maj@<n>")
        for metric in metrics:
            _check(metric, n)
        sampled = any(metric != GREEDY for metric in metrics)
        return cls(n if sampled else 0, GREEDY in metrics, tuple(metrics))


def _check(metric: str, n: int) -> None:
    found = _METRIC.fullmatch(metric)
    if not found:
        raise UserError(f"--metrics: unknown metric {metric!r}, expected pass@1, avg@{n}, pass@<k> or maj@{n}")
    kind, k = found[1], int(found[2])
    if metric == GREEDY:
        return
    if kind == "pass" and not 2 <= k <= n:
        raise UserError(
            f"--metrics {metric}: needs at least {k} samples a question, found --n {n}; raise --n or lower k"
            if k > n
            else f"--metrics {metric}: expected pass@1 (the greedy response) or pass@2 to pass@{n}"
        )
    if kind != "pass" and k != n:
        raise UserError(f"--metrics {metric}: found --n {n}, so only {kind}@{n} can be given; make them agree")


def seed_of(seed: int, benchmark: str, question: str, sample: int) -> int:
    """The seed of one sampled response, from 0 to 2^31 - 1, independent of other samples."""
    digest = hashlib.sha256(f"{seed}/{benchmark}/{question}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def requests(
    benchmarks: Iterable[Benchmark], template: Template, draws: Mapping[str, Draws], seed: int
) -> list[Request]:
    """Every sample of a run: of each question the greedy one, then the sampled ones; `draws` by benchmark."""
    found = []
    for benchmark in benchmarks:
        own_draws = draws[benchmark.name]
        for question in benchmark.questions:
            prompt = template.prompt(question.problem)
            if own_draws.greedy:
                found.append(Request(benchmark.name, question.id, 0, True, 0, prompt))
            for sample in range(own_draws.n):
                own = seed_of(seed, benchmark.name, question.id, sample)
                found.append(Request(benchmark.name, question.id, sample, False, own, prompt))
    return found


def settings(
    model: dict[str, Any],
    template: Template,
    sampling: Sampling,
    chat: bool,
    seed: int,
    data: dict[str, str],
    scorers: dict[str, str],
    versions: dict[str, str],
    thinking: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Everything that could change a sample or its verdict, but not the number of samples.

    `thinking`: what `thinking_end.recorded` gives.
    """
    shortened = {} if sampling.shortened_from is None else {"shortened_from": sampling.shortened_from}
    return {
        "model": model,
        "template": {"name": template.name, "sha256": template.sha256, "chat": chat, **(thinking or {})},
        "sampling": {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens, **shortened,
        },
        "seed": seed,
        "data_sha256": data,
        "scorers": scorers,
        "versions": versions,
    }  # fmt: skip


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """The differences between two settings, as `name: old -> new`.

    A benchmark that only one of them has, another name for the same template, and the length that was asked for where
    it was shortened, are no differences.
    """
    if not name and isinstance(old, dict) and isinstance(new, dict):
        old, new = with_scorers(old), with_scorers(new)
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() & new.keys() if name in ("data_sha256", "scorers") else old.keys() | new.keys()
        keys = keys - _UNCOMPARED.get(name, set())
        found = (differences(old.get(k), new.get(k), f"{name}.{k}" if name else k) for k in sorted(keys))
        return [line for lines in found for line in lines]
    return [] if old == new else [f"{name}: {_short(old)} -> {_short(new)}"]


def with_scorers(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of before there were scorers, with `math` for each benchmark; others as they are."""
    return {"scorers": dict.fromkeys(settings.get("data_sha256", {}), MATH)} | settings


def _short(value: Any) -> str:
    # A server's text may be among them: remove a terminal's control characters.
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return f"{text[:16]}..." if _SHA256.fullmatch(text) else text
