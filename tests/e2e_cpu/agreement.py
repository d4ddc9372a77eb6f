"""Compare the real trainer's gradients, norms and losses (`ranks`) with Eq. 10 written out (`oracle`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from e2e_cpu import nursery, oracle, ranks
from e2e_cpu.oracle import Data, Oracle, Step, norm
from e2e_cpu.ranks import Case, Outcome

# Largest |g - g*| / |g*|: over all parameters, and per tensor.
LIMITS = {"fp32": (1e-4, 1e-4), "bf16": (2e-2, 5e-2)}


def slow_but(names: Iterable[str], *fast: str) -> list:
    """Return a test's parameters; `make test` runs only the fast ones."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def check(
    folder: Path, case: Case, count: int = 1, limit: float = nursery.LIMIT_S
) -> tuple[list[Outcome], tuple[float, float]]:
    """Run the case with `count` ranks and `compare` the outcomes."""
    outcomes = ranks.run(folder, case, count, limit)
    return outcomes, compare(folder, case, count, outcomes)


def compare(folder: Path, case: Case, count: int, outcomes: list[Outcome]) -> tuple[float, float]:
    """Check every optimizer step's gradient and status against Eq. 10. Return the worst distances."""
    distances = []
    for i, outcome in enumerate(outcomes):
        steps = expected(folder, case, count, i, outcome)
        for gradient, step in zip(outcome.gradients, steps, strict=True):
            distances.append(check_gradient(gradient, step.gradient, case.dtype))
        check_status(folder, case, count, i, outcome, steps)
    return max(d[0] for d in distances), max(d[1] for d in distances)


def check_gradient(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], dtype: str) -> tuple[float, float]:
    """Check against `LIMITS` and return the distances over all parameters and of the worst tensor; zero stays zero."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        if not gradient.any():
            assert not found[name].any(), f"distance of {name}: expected 0, found a norm of {norm([found[name]]):.2e}"
    off = {n: norm([found[n].double() - g]) for n, g in wanted.items()}
    each = {n: off[n] / norm([g]) for n, g in wanted.items() if g.any()}
    total = norm(wanted.values())
    overall = math.hypot(*off.values()) / total if total else 0.0
    worst = max(each, key=each.get, default=None)
    assert overall <= LIMITS[dtype][0], f"distance over all parameters: {overall:.2e}; of each: {each}"
    assert worst is None or each[worst] <= LIMITS[dtype][1], f"distance of {worst}: {each[worst]:.2e}"
    return overall, each.get(worst, 0.0)


def expected(folder: Path, case: Case, count: int, i: int, outcome: Outcome) -> list[Step]:
    """Return Eq. 10's optimizer steps over rollout `i`, each at the trainer's weights in that step."""
    settings, data, rollout = case.settings(count), case.data(folder, count)[i], case.rollouts[i]
    mel, temperature, correction = (
        settings.mel,
        settings.upstream["rollout.temperature"],
        _correction(settings.upstream),
    )
    epochs, coefficient = settings.upstream["train.max_epochs"], case.coefficient(i, count)
    total = len(data.responses)
    sizes = [min(case.train_batch, total - done) for done in range(0, total, case.train_batch)]
    assert [len(samples) for samples in outcome.samples] == sizes * epochs
    if len(outcome.samples) == 1 and not case.learning_rate:  # the same result serves many cases
        nll = oracle.nll(folder, rollout, mel.nll_mean_over, case.lora_rank)
        plain = oracle.nll(folder, rollout, "experiences", case.lora_rank)
        policy = oracle.policy(folder, rollout, mel.algorithm, temperature, case.lora_rank, correction)
        return [Step(policy, nll, coefficient, plain and plain.value)]
    steps = []
    for step, (samples, rows) in enumerate(zip(outcome.samples, _rows(case, count, data, sizes) * epochs, strict=True)):
        own = (
            Oracle(folder, case.lora_rank, outcome.before[step])
            if case.learning_rate
            else oracle.of(folder, case.lora_rank)
        )
        nll = own.nll(rows, mel.nll_mean_over, len(samples) / oracle.GROUP)
        plain = own.nll(rows, "experiences", 1)
        steps.append(
            Step(
                own.policy(data, mel.algorithm, temperature, samples, correction),
                nll,
                coefficient,
                plain and plain.value,
            )
        )
    for epoch in range(epochs):  # each epoch uses every response once
        of_epoch = outcome.samples[epoch * len(sizes) : (epoch + 1) * len(sizes)]
        assert sorted(j for samples in of_epoch for j in samples) == list(range(total))
    return steps


def _correction(values: dict) -> str:
    level, mode = (values[f"algo.advantage.is_correction_{part}"] for part in ("level", "mode"))
    return "off" if level == "off" else f"{level} {mode}"


def _rows(case: Case, count: int, data: Data, sizes: list[int]) -> list[list]:
    """Return the Ms of each optimizer step of an epoch. The package assigns them; the oracle computes their weights."""
    from openrlhf_mel.method import nll_plan

    mel = case.settings(count).mel
    planned = nll_plan.plan(
        data.rows, ranks=count, mean_over=mel.nll_mean_over,
        questions=[size / oracle.GROUP for size in sizes], max_rows=case.micro_batch,
    )  # fmt: skip
    rows = [[w.row for rank in step for batch in rank for w in batch if w.weight] for step in planned]
    assert sum(map(len, rows)) == len(data.rows)
    return rows


def check_status(folder: Path, case: Case, count: int, i: int, outcome: Outcome, steps: list[Step]) -> None:
    """Check the trainer's status of a rollout: means over its optimizer steps; the joint norm is the last step's."""
    near = {"rel": 1e-4, "abs": 1e-5} if case.dtype == "fp32" else {"rel": 2e-2, "abs": 1e-2}

    def mean(values: list[float]) -> object:
        return pytest.approx(sum(values) / len(values), **near)

    status, with_ms = outcome.status, [s for s in steps if s.nll is not None]
    rollout = case.rollouts[i]
    assert status["mel/learned"] == (rollout.meta + rollout.carried if case.coefficient(i, count) else 0)
    assert status["loss/policy"] == mean([s.policy.value for s in steps])
    assert status["actor_grad_norm"] == mean([norm(steps[-1].gradient.values())])
    assert status["policy/entropy"] == mean([-torch.cat(case.data(folder, count)[i].old).mean().item()])
    if with_ms:
        assert status["loss/nll"] == mean([s.nll.value for s in with_ms])
        assert status["mel/nll"] == mean([s.mean_nll for s in with_ms])
    else:
        assert not {"loss/nll", "mel/nll", "grad_norm/nll"} & status.keys()
    if case.offload:
        assert not {"grad_norm/policy", "grad_norm/nll"} & status.keys()
    else:
        assert status["grad_norm/policy"] == mean([s.policy.norm for s in steps])
        scaled = [s.coefficient * s.nll.norm for s in with_ms if s.coefficient]
        assert status.get("grad_norm/nll") == (mean(scaled) if scaled else None)
