"""The mismatch of engine and policy, compared with plain Python token by token."""

import math
import random

import pytest
import torch

from openrlhf_mel.method.mismatch import mismatch


def parts_of(rng, dtype=torch.float64):
    """Return parts of different shapes, and the (engine, policy) log-probs of the unmasked tokens."""
    parts, tokens = [], []
    for rows, width in ((3, 5), (1, 9), (2, 1)):
        engine = [[-rng.expovariate(1) for _ in range(width)] for _ in range(rows)]
        policy = [[-rng.expovariate(1) for _ in range(width)] for _ in range(rows)]
        mask = [[int(rng.random() < 0.6) for _ in range(width)] for _ in range(rows)]
        parts.append((torch.tensor(engine, dtype=dtype), torch.tensor(policy, dtype=dtype), torch.tensor(mask)))
        tokens += [
            (e, p)
            for es, ps, ms in zip(engine, policy, mask, strict=True)
            for e, p, m in zip(es, ps, ms, strict=True)
            if m
        ]
    return parts, tokens


@pytest.mark.parametrize("seed", range(5))
def test_over_the_tokens_of_all_parts(seed):
    parts, tokens = parts_of(random.Random(seed))
    off = [p - e for e, p in tokens]
    assert mismatch(parts) == pytest.approx(
        {
            "rollout/logprob_diff_mean": math.fsum(map(abs, off)) / len(off),
            "rollout/logprob_diff_max": max(map(abs, off)),
            "rollout/kl_k3": math.fsum(math.exp(d) - 1 - d for d in off) / len(off),
        },
        rel=1e-12,
    )


def test_k3_is_the_divergence_of_the_engine_from_the_policy():
    """Over tokens in the engine's proportions it equals KL(engine || policy), not the reverse KL."""
    engine, policy = (0.5, 0.25, 0.25), (0.25, 0.25, 0.5)
    tokens = [0, 0, 1, 2]  # as often as the engine samples them
    part = tuple(torch.tensor([[math.log(p[t]) for t in tokens]], dtype=torch.float64) for p in (engine, policy))
    kl = sum(e * math.log(e / p) for e, p in zip(engine, policy, strict=True))
    assert mismatch([(*part, torch.ones(1, 4))])["rollout/kl_k3"] == pytest.approx(kl, rel=1e-12)
    skewed = (0.5, 0.3, 0.2)
    part = tuple(torch.tensor([[math.log(p[t]) for t in tokens]], dtype=torch.float64) for p in (engine, skewed))
    kl, other = (
        sum(a * math.log(a / b) for a, b in zip(*pair, strict=True)) for pair in ((engine, skewed), (skewed, engine))
    )
    assert mismatch([(*part, torch.ones(1, 4))])["rollout/kl_k3"] == pytest.approx(kl) != pytest.approx(other)


def test_a_small_difference_does_not_drown():
    """For small d, exp(d) - 1 - d is d^2 / 2, which fp32 would round to 0."""
    d = 2.0**-23
    part = (torch.full((1, 4), -1.0), torch.full((1, 4), -1.0 + d), torch.ones(1, 4))
    assert mismatch([part])["rollout/kl_k3"] == pytest.approx(d * d / 2, rel=1e-5, abs=0)


def test_what_is_not_a_number_is_not_passed_over():
    found = mismatch([(torch.tensor([[-1.0, math.nan]]), torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2))])
    assert all(math.isnan(value) for value in found.values()) and len(found) == 3


def test_without_a_token_nothing_is_said():
    none = torch.zeros(2, 3)
    assert mismatch([]) == mismatch([(none, none, none)]) == {}
