"""The gradient equals its definition for every paradigm except GRPO, with and without Ms, and for LoRA's parameters."""

from types import SimpleNamespace

import pytest
import torch
from e2e_cpu import agreement, nursery, oracle, ranks
from e2e_cpu.oracle import Rollout
from e2e_cpu.ranks import DYNAMIC, FP32, PACKED, Case

from openrlhf_mel.settings.paradigms import PARADIGMS

pytestmark = [pytest.mark.objective, pytest.mark.timeout(600)]
WITH_AND_WITHOUT = (Rollout(meta=0), Rollout(meta=5), Rollout(meta=1, seed=1))
LAYOUTS = {  # ranks, flags
    "one rank, padded": (1, ()),
    "ZeRO-2, padded": (2, ()),
    "ZeRO-1, dynamic": (2, (*DYNAMIC, "--ds.zero_stage=1")),
    "ZeRO-3, packed": (2, (*PACKED, "--ds.zero_stage=3")),
    "ZeRO-3, dynamic": (2, (*DYNAMIC, "--ds.zero_stage=3")),
}
RANK = 4
CORRECTIONS = {  # level and mode
    "token clip": ("token", "clip"),
    "token mask": ("token", "mask"),
    "seq mask": ("seq", "mask"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return oracle.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("layout", agreement.slow_but(LAYOUTS, "ZeRO-3, dynamic"))
@pytest.mark.parametrize("algorithm", [name for name in PARADIGMS if name != "grpo"])
def test_paradigm(folder, algorithm, layout):
    count, flags = LAYOUTS[layout]
    agreement.check(folder, Case((FP32, f"--mel.algorithm={algorithm}", *flags), WITH_AND_WITHOUT), count)


@pytest.mark.parametrize("name", agreement.slow_but(CORRECTIONS, "token clip"))
@pytest.mark.parametrize("algorithm", agreement.slow_but(["grpo", "dr_grpo", "reinforce++"], "grpo"))
def test_upstreams_correction_weighs_the_policys_tokens_and_leaves_the_nll_alone(folder, algorithm, name):
    level, mode = CORRECTIONS[name]
    flags = (f"--algo.advantage.is_correction_level={level}", f"--algo.advantage.is_correction_mode={mode}")
    case = Case((FP32, f"--mel.algorithm={algorithm}", *flags), WITH_AND_WITHOUT[:2])
    outcomes, _ = agreement.check(folder, case, 2)
    assert all(outcome.status["is_filter_ratio"] > 0 for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dr_grpo", "reinforce++", "rft"])
def test_paradigm_in_bf16(folder, algorithm):
    agreement.check(folder, Case((f"--mel.algorithm={algorithm}",), WITH_AND_WITHOUT), 2)


LORA = {
    "grpo, ZeRO-1": ("grpo", ("--ds.zero_stage=1",)),
    "grpo, ZeRO-2": ("grpo", ()),
    "grpo, ZeRO-3": ("grpo", ("--ds.zero_stage=3",)),
    "grpo, ZeRO-2, dynamic": ("grpo", DYNAMIC),
    "rft, ZeRO-2": ("rft", ()),
    "rft, ZeRO-3, dynamic": ("rft", (*DYNAMIC, "--ds.zero_stage=3")),
    "reinforce++, ZeRO-3": ("reinforce++", ("--ds.zero_stage=3",)),
    "grpo, bf16": ("grpo", ()),
    "gradient checkpointing": ("grpo", ("--ds.zero_stage=3", "--actor.gradient_checkpointing_enable")),
}


@pytest.mark.parametrize(
    "name", agreement.slow_but(LORA, "grpo, ZeRO-2", "rft, ZeRO-3, dynamic", "reinforce++, ZeRO-3")
)
def test_lora(folder, name):
    """Only A and B of W + alpha / rank * B A have gradients, the base weights none."""
    algorithm, flags = LORA[name]
    dtype = () if "bf16" in name else (FP32,)
    case = Case((*dtype, f"--mel.algorithm={algorithm}", *flags), WITH_AND_WITHOUT, lora_rank=RANK)
    for outcome in agreement.check(folder, case, 2)[0]:
        assert all("lora_" in name for name in outcome.gradients[0])


def test_lora_learns_over_several_steps(folder):
    case = Case((FP32,), (Rollout(6, 5), Rollout(6, 1, seed=1)), learning_rate=1e-3, lora_rank=RANK)
    for outcome in agreement.check(folder, case, 2)[0]:
        first, second = outcome.before
        assert any(not torch.equal(first[n], second[n]) for n in first if "lora_" in n)
        assert all(torch.equal(first[n], second[n]) for n in first if "lora_" not in n)


@pytest.mark.parametrize("dtype", agreement.slow_but(["fp32", "bf16"], "bf16"))
@pytest.mark.parametrize("stage", [1, 2, 3], ids=lambda stage: f"ZeRO{stage}")
def test_lora_is_handed_over_merged(folder, stage, dtype):
    """The engine gets W + alpha / rank * B A under the base model's names, and the policy stays unchanged."""
    flags = (f"--ds.zero_stage={stage}", *([FP32] if dtype == "fp32" else []))
    case = Case(flags, (Rollout(),), lora_rank=RANK)
    data = case.data(folder, 2)
    found = nursery.run(_hand_over, 2, ranks.free_port(), folder, case, data, ranks=2)
    sent, wanted = found[0].sent, {n: p.detach() for n, p in oracle.of(folder, RANK).weights().items()}
    assert sent.keys() == wanted.keys()
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == "fp32" else {"rtol": 2**-7, "atol": 2**-9}
    for name, weight in wanted.items():
        torch.testing.assert_close(sent[name].double(), weight, **near)
    for each in found:
        for held in (each.after, each.failed):
            assert held.keys() == each.before.keys()
            assert all(torch.equal(held[n], p) for n, p in each.before.items())
    policy = oracle.policy(folder, Rollout(), "grpo", lora_rank=RANK)
    step = oracle.Step(policy, oracle.nll(folder, Rollout(), "experiences", RANK))
    agreement.check_gradient(found[0].gradient, step.gradient, dtype)


def _hand_over(rank, count, port, folder, case, data):
    """Return the weights upstream sends, the parameters before, after, and after a failed sync, and the gradient."""
    from openrlhf.trainer.ray import ppo_actor

    from openrlhf_mel.upstream.lora import merged

    strategy, actor = ranks.start(case, ranks.arguments(case, count), rank, count, port, folder)
    names, weights = [], []
    engine = SimpleNamespace(update_weight=SimpleNamespace(remote=lambda name, **_: names.append(name)))
    group = SimpleNamespace(broadcast=lambda weight, **_: weights.append(weight.detach().clone()))
    actor.trainer.vllm_engines, actor.trainer._model_update_group = [engine], group
    ppo_actor.ray = SimpleNamespace(get=lambda refs: refs)
    before = ranks.parameters(actor)
    actor.broadcast_to_vllm()
    after = ranks.parameters(actor)
    try:
        with merged(actor.actor.model.module):
            raise ConnectionError
    except ConnectionError:
        failed = ranks.parameters(actor)
    (outcome,) = ranks.learn(case, strategy, actor, data, rank, count)
    sent = dict(zip(names, weights, strict=True))
    return SimpleNamespace(sent=sent, before=before, after=after, failed=failed, gradient=outcome.gradients[0])
