"""The real trainer's gradient, at the optimizer's boundary, against Eq. 10 by autograd (through upstream's actor)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from e2e_cpu import ranks
from e2e_cpu.ranks import Case

from openrlhf_mel import internalization

FP32 = "--mel.cpu_dtype=fp32"
PACKED = ("--ds.packing_samples", "--ds.attn_implementation=flash_attention_2")
DYNAMIC = (*PACKED, "--train.dynamic_batch_enable", "--train.max_tokens_per_gpu=64")


def case(name: str, *flags: str, **more: object) -> Case:
    return Case(name, (FP32, *flags), **more)


ONE = [
    case("accumulation 1", micro_batch=16),
    case("accumulation 4", micro_batch=4),
    case("no Ms", meta=0),
    case("one M", meta=1),
    case("more Ms than rows of a micro-batch", meta=7),
    case("mean over questions", "--mel.nll_mean_over=questions", meta=5),
    case("coefficient 0.3", "--mel.nll_coef=0.3"),
    case("ZeRO-1", "--ds.zero_stage=1", micro_batch=4),
    case("ZeRO-3", "--ds.zero_stage=3", micro_batch=4),
    case("packed", *PACKED, micro_batch=4),
    case("dynamic", *DYNAMIC),
    case("dynamic, ZeRO-1", *DYNAMIC, "--ds.zero_stage=1"),
    case("rft", "--mel.algorithm=rft", micro_batch=4),
    case("rft, dynamic", "--mel.algorithm=rft", *DYNAMIC),
    case("rft without Ms", "--mel.algorithm=rft", meta=0),
    case("reinforce++", "--mel.algorithm=reinforce++", micro_batch=4),
    case("reinforce++-baseline", "--mel.algorithm=reinforce++-baseline", micro_batch=8),
    case("gradient checkpointing", "--actor.gradient_checkpointing_enable", micro_batch=4),
    case("gradients cannot be set aside", micro_batch=4, ledger=False),
    case("gradients cannot be set aside, ZeRO-3", "--ds.zero_stage=3", micro_batch=4, ledger=False),
    case("rollout temperature", "--rollout.temperature=0.7", meta=4, still=True),
]
QUESTIONS = "--mel.nll_mean_over=questions"
STEPS = [  # 24 samples, 16 a step: a full step and a half one
    case("experiences, 2 steps", questions=6, meta=5, still=True),
    case("questions, 2 steps", QUESTIONS, questions=6, meta=5, still=True),
    case("questions, 2 steps, 2 epochs", QUESTIONS, "--train.max_epochs=2", questions=6, meta=5, still=True),
]
TWO = [
    case("2 ranks, ZeRO-1", "--ds.zero_stage=1", meta=3),
    case("2 ranks, ZeRO-2", meta=3),
    case("2 ranks, ZeRO-3", "--ds.zero_stage=3", meta=3),
    case("2 ranks, one M", "--ds.zero_stage=3", meta=1),
    case("2 ranks, no Ms", "--ds.zero_stage=3", meta=0),
    case("2 ranks, packed", *PACKED, meta=5),
    case("2 ranks, dynamic, ZeRO-2", *DYNAMIC, meta=5),
    case("2 ranks, dynamic, ZeRO-3", *DYNAMIC, "--ds.zero_stage=3", meta=5),
    case("2 ranks, questions", "--mel.nll_mean_over=questions", meta=5),
    case("2 ranks, rft", "--mel.algorithm=rft", meta=3),
    case("2 ranks, reinforce++", "--mel.algorithm=reinforce++", meta=3),
    case("2 ranks, rft, dynamic", "--mel.algorithm=rft", *DYNAMIC, meta=3),
    case("2 ranks, gradients cannot be set aside", meta=3, ledger=False),
]
TWO_BASELINE = [
    case("2 ranks, baseline", upstream_only=True),
    case("2 ranks, coefficient 0", "--mel.nll_coef=0"),
]
BASELINE = [
    case("baseline", upstream_only=True, micro_batch=4),
    case("coefficient 0", "--mel.nll_coef=0", micro_batch=4),
    case("nothing kept", meta=0, micro_batch=4),
    case("disabled", "--mel.enable=false", meta=0, micro_batch=4),
    Case("baseline, bf16", upstream_only=True, micro_batch=4),
    Case("coefficient 0, bf16", ("--mel.nll_coef=0",), micro_batch=4),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ranks.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def one(folder):
    return ranks.run_cases(folder, ONE + STEPS + BASELINE, 1)


@pytest.fixture(scope="module")
def two(folder):
    return ranks.run_cases(folder, TWO + TWO_BASELINE, 2)


def check(folder, case: Case, result: dict) -> None:
    rollout = ranks.make_rollout(case)
    mel = _mel(case)
    gradients, values = ranks.oracle(folder, case, rollout, mel)
    assert len(result["gradients"]) == 1
    assert ranks.distance(result["gradients"][0], gradients) < 1e-5
    status = result["status"]
    assert status["loss/policy"] == pytest.approx(values["loss/policy"], rel=1e-4, abs=1e-6)
    if rollout.rows:
        assert status["loss/nll"] == pytest.approx(values["loss/nll"], rel=1e-5)
        assert not case.ledger or status["grad_norm/nll"] > 0
        if mel.nll_mean_over == "experiences":
            assert status["mel/nll"] == pytest.approx(status["loss/nll"], rel=1e-5)
        else:
            assert status["mel/nll"] > status["loss/nll"]
    else:
        assert "loss/nll" not in status


def _mel(case: Case):
    from openrlhf_mel.upstream.settings import resolve

    return resolve(None, case.arguments).mel


@pytest.mark.objective
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [c.name for c in ONE])
def test_one_process(folder, one, name):
    check(folder, next(c for c in ONE if c.name == name), one[name])


@pytest.mark.objective
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [c.name for c in TWO])
def test_two_ranks(folder, two, name):
    check(folder, next(c for c in TWO if c.name == name), two[name])


@pytest.mark.objective
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [c.name for c in STEPS])
def test_every_m_once_an_epoch_spread_over_the_steps(folder, one, name):
    c = next(c for c in STEPS if c.name == name)
    mel, rollout = _mel(c), ranks.make_rollout(c)
    per_step = internalization.plan(
        rollout.rows, ranks=1, mean_over=mel.nll_mean_over, questions=[4, 2], max_rows=c.micro_batch
    )  # which rows; their weights are the oracle's own
    epochs = 2 if "epochs" in name else 1
    assert len(one[name]["gradients"]) == 2 * epochs
    for found, step, questions in zip(one[name]["gradients"], per_step * epochs, (4, 2) * epochs, strict=True):
        own = dataclasses.replace(rollout, rows=[w.row for batch in step[0] for w in batch])
        expected, _ = ranks.oracle(folder, dataclasses.replace(c, questions=questions), own, mel)
        assert ranks.distance(found, expected) < 1e-5


@pytest.mark.objective
@pytest.mark.timeout(300)
def test_two_ranks_with_coefficient_0_do_as_the_baseline_bit_for_bit(two):
    found, expected = two["2 ranks, coefficient 0"]["parameters"], two["2 ranks, baseline"]["parameters"]
    assert all(torch.equal(found[n], p) for n, p in expected.items())


@pytest.mark.objective
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["coefficient 0", "nothing kept", "disabled"])
def test_update_without_ms_is_the_baselines_bit_for_bit(one, name):
    assert all(torch.equal(one[name]["parameters"][n], p) for n, p in one["baseline"]["parameters"].items())


@pytest.mark.objective
@pytest.mark.timeout(300)
def test_update_with_coefficient_0_is_the_baselines_in_bf16(one):
    found, expected = one["coefficient 0, bf16"]["parameters"], one["baseline, bf16"]["parameters"]
    assert all(torch.equal(found[n], p) for n, p in expected.items())


@pytest.mark.objective
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["accumulation 4", "2 ranks, ZeRO-1", "2 ranks, ZeRO-2", "2 ranks, ZeRO-3"])
def test_norms_of_the_two_gradients(folder, one, two, name):
    c = next(c for c in ONE + TWO if c.name == name)
    rollout = ranks.make_rollout(c)
    mel = _mel(c)
    policy, _ = ranks.oracle(folder, c, ranks.make_rollout(Case("p", c.flags, meta=0)), mel)
    joint, _ = ranks.oracle(folder, c, rollout, mel)
    status = (one | two)[name]["status"]
    nll = {n: joint[n] - policy[n] for n in joint}
    for name, gradient in (("grad_norm/policy", policy), ("grad_norm/nll", nll), ("actor_grad_norm", joint)):
        norm = float(sum((g**2).sum() for g in gradient.values()).sqrt())
        assert status[name] == pytest.approx(norm, rel=1e-4)
