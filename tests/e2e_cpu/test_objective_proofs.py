"""Tests of the proof itself: with a fault injected into the trainer, or with a wrong gradient, the check fails."""

import dataclasses

import pytest
import torch
from e2e_cpu import agreement, oracle
from e2e_cpu.oracle import Rollout
from e2e_cpu.ranks import DYNAMIC, FP32, Case

pytestmark = [pytest.mark.objective, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return oracle.make_model(tmp_path_factory.mktemp("tiny"))


def no_boundary(data):
    """Use the engine's own accumulation boundary, as upstream does, not the joint strategy's."""
    from openrlhf_mel.upstream.policy_actor import JointStrategy

    JointStrategy.backward = lambda self, loss, model, optimizer, **_: self._strategy.backward(loss, model, optimizer)


def nothing_set_aside(data):
    """Both losses reach the engine in sequence, and no gradient is set aside."""
    from openrlhf_mel.upstream.gradients import GradientLedger

    GradientLedger.set_aside = lambda self: None


def handed_over_twice(data):
    """Set gradients aside even where that is impossible."""
    from openrlhf_mel.upstream.policy_actor import JointTrainer

    JointTrainer.reduces_gradients = property(lambda self: self.at_boundary)


def mean_over_ranks(data):
    """Omit the NLL's factor of the number of ranks, over which the engine averages."""
    _reweigh(lambda weight, own, ranks: weight / ranks)


def mean_of_each_rank(data):
    """Take each rank's mean over its own Ms; the engine then averages these means."""
    _reweigh(lambda weight, own, ranks: 1 / own / ranks)


def _reweigh(weigh):
    from openrlhf_mel.method import nll_plan
    from openrlhf_mel.method.nll_plan import WeightedRow

    plan = nll_plan.plan

    def wrong(rows, *, ranks, **options):
        def rank(batches):
            own = sum(w.weight > 0 for batch in batches for w in batch)
            return [[WeightedRow(w.row, w.weight and weigh(w.weight, own, ranks)) for w in b] for b in batches]

        return [[rank(batches) for batches in step] for step in plan(rows, ranks=ranks, **options)]

    nll_plan.plan = wrong


def denominator_with_ms(data):
    """Count M's tokens and Ms in the policy's denominators."""
    from openrlhf.trainer.ray import ppo_actor

    windows = ppo_actor.iter_grad_accum_global_norm

    def wrong(batches, strategy, window, mask):
        for item, info in windows(batches, strategy, window, mask):
            tokens = info["batch_num_tokens"] + sum(len(row.token_ids) for row in data.rows) / window
            yield (
                item,
                info
                | {
                    "batch_num_tokens": tokens,
                    "global_batch_size": info["global_batch_size"] + len(data.rows) / window,
                },
            )

    ppo_actor.iter_grad_accum_global_norm = wrong


def upstreams_own_loss(data):
    """Use upstream's loss instead of the paradigm's own."""
    from openrlhf_mel.upstream import policy_actor

    policy_actor.policy_loss = lambda paradigm, upstreams, args: upstreams


def clip_of_a_token(data):
    """Clip GSPO's ratio with the range for tokens."""
    from openrlhf_mel.upstream import policy_actor

    make = policy_actor.policy_loss

    def wide(paradigm, upstreams, args):
        loss = make(paradigm, upstreams, args)
        loss.clip_eps_low = loss.clip_eps_high = oracle.CLIP
        return loss

    policy_actor.policy_loss = wide


def rollout_temperature(data):
    """Condition M at the rollout temperature."""
    from openrlhf_mel.method import nll_head

    exact = nll_head.token_nll

    def wrong(made, hidden, targets, *args):
        return exact(lambda states: made(states) / TEMPERATURE, hidden, targets, *args)

    nll_head.token_nll = wrong


TEMPERATURE = 0.7
# Fault -> cases in which it matters, with 2 ranks.
FAULTS = {
    no_boundary: {
        "ZeRO-1, the policy alone": Case((FP32, *DYNAMIC, "--ds.zero_stage=1"), (Rollout(meta=0),)),
        "ZeRO-2, the policy alone": Case((FP32, *DYNAMIC), (Rollout(meta=0),)),
        "ZeRO-2, both": Case((FP32, *DYNAMIC), (Rollout(meta=5),)),
        "ZeRO-2, bf16": Case(DYNAMIC, (Rollout(meta=0),)),
    },
    nothing_set_aside: {
        "ZeRO-1": Case((FP32, "--ds.zero_stage=1"), (Rollout(meta=5),)),
        "ZeRO-2": Case((FP32,), (Rollout(meta=5),)),
        "ZeRO-2, dynamic": Case((FP32, *DYNAMIC), (Rollout(meta=5),)),
    },
    # Under ZeRO-3, and under ZeRO-2 after several micro-batches, offloaded gradients add up correctly even so.
    handed_over_twice: {
        "offloaded, ZeRO-1": Case((FP32, *DYNAMIC, "--ds.zero_stage=1"), (Rollout(meta=5),), offload=True),
        "offloaded, ZeRO-2": Case((FP32,), (Rollout(meta=5),), micro_batch=8, offload=True),
    },
    mean_over_ranks: {
        "the NLL alone": Case((FP32,), (Rollout(meta=5, policy=False),)),
        "both, ZeRO-3": Case((FP32, "--ds.zero_stage=3"), (Rollout(meta=5),)),
        "both, bf16": Case((), (Rollout(meta=5),)),
    },
    mean_of_each_rank: {
        "the NLL alone": Case((FP32,), (Rollout(meta=5, policy=False),)),
        "both, ZeRO-3, dynamic": Case((FP32, *DYNAMIC, "--ds.zero_stage=3"), (Rollout(meta=5),)),
        "a rank without Ms": Case((FP32,), (Rollout(meta=1),)),
    },
    denominator_with_ms: {
        "grpo": Case((FP32,), (Rollout(meta=5),)),
        "reinforce++": Case((FP32, "--mel.algorithm=reinforce++"), (Rollout(meta=5),)),
        "rft": Case((FP32, "--mel.algorithm=rft"), (Rollout(meta=5),)),
        "dr_grpo": Case((FP32, "--mel.algorithm=dr_grpo"), (Rollout(meta=5),)),
    },
    upstreams_own_loss: {"dr_grpo": Case((FP32, "--mel.algorithm=dr_grpo"), (Rollout(meta=5),))},
    clip_of_a_token: {"gspo": Case((FP32, "--mel.algorithm=gspo"), (Rollout(meta=5),))},
    rollout_temperature: {
        "padded": Case((FP32, f"--rollout.temperature={TEMPERATURE}"), (Rollout(meta=5),)),
        "dynamic": Case((FP32, f"--rollout.temperature={TEMPERATURE}", *DYNAMIC), (Rollout(meta=5),)),
    },
}


@pytest.mark.parametrize("fault, name", [(fault, name) for fault, cases in FAULTS.items() for name in cases])
def test_a_mistake_is_found(folder, fault, name):
    case = FAULTS[fault][name]
    with pytest.raises(AssertionError, match=r"^distance "):
        agreement.check(folder, dataclasses.replace(case, prepare=fault), 2)
    agreement.check(folder, case, 2)  # without the fault the case passes


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("wrong", ["one small tensor", "zero", "all", "missing"])
def test_a_wrong_gradient_is_found(dtype, wrong):
    """An error of half the limit passes, twice the limit fails."""
    torch.manual_seed(0)
    wanted = {"large": torch.randn(99), "small": 1e-3 * torch.randn(9), "zero": torch.zeros(9)}
    overall, each = agreement.LIMITS[dtype]
    factor = {"one small tensor": (0, each), "zero": (0, 0), "all": (overall, overall), "missing": (0, 0)}[wrong]

    def found(share):
        off = {"large": wanted["large"] * (1 + share * factor[0]), "small": wanted["small"] * (1 + share * factor[1])}
        return off | {"zero": torch.zeros(9)}

    agreement.check_gradient(found(0.5), wanted, dtype)
    bad = found(2)
    if wrong == "zero":
        bad["zero"] = torch.tensor([0.0] * 8 + [1e-30])
    if wrong == "missing":
        del bad["small"]
    with pytest.raises(AssertionError):
        agreement.check_gradient(bad, wanted, dtype)
