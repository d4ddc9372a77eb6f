"""The real trainer's gradient (through upstream's actor), taken before the optimizer, equals Eq. 10's by autograd.

This is the fast part; `test_objective_matrix` has everything that a CPU can run.
"""

import gc

import pytest
import torch
from e2e_cpu import agreement, nursery, oracle, ranks
from e2e_cpu.oracle import Rollout
from e2e_cpu.ranks import DYNAMIC, FP32, PACKED, Case

pytestmark = [pytest.mark.objective, pytest.mark.timeout(600)]
QUESTIONS = "--mel.nll_mean_over=questions"
CHECKPOINTING = "--actor.gradient_checkpointing_enable"
# The policy alone, the NLL alone, both, neither.
FOUR = (Rollout(meta=0), Rollout(policy=False), Rollout(meta=5), Rollout(meta=0, policy=False))


def stage(number):
    return f"--ds.zero_stage={number}"


def case(*flags, **more):
    return Case((FP32, *flags), **more)


def learning(*flags, **more):
    return Case(flags, learning_rate=1e-3, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return oracle.make_model(tmp_path_factory.mktemp("tiny"))


CASES = {
    "accumulation 1": (1, case(rollouts=FOUR, micro_batch=16)),
    "ZeRO-1": (2, case(stage(1), rollouts=FOUR)),
    "ZeRO-2": (2, case(rollouts=FOUR)),
    "ZeRO-2, bf16": (2, Case((), FOUR)),
    "ZeRO-3": (2, case(stage(3), rollouts=FOUR)),
    "packed": (2, case(*PACKED, rollouts=FOUR)),
    "dynamic, ZeRO-1": (1, case(*DYNAMIC, stage(1), rollouts=FOUR)),
    "dynamic, ZeRO-2": (2, case(*DYNAMIC, rollouts=FOUR)),
    "dynamic, ZeRO-3": (2, case(*DYNAMIC, stage(3), rollouts=FOUR)),
    "more Ms than rows of a micro-batch": (1, case(rollouts=(Rollout(meta=7),))),
    "mean over questions": (1, case(QUESTIONS, rollouts=(Rollout(meta=5), Rollout(meta=1)), micro_batch=4)),
    "mean over questions, 2 ranks, dynamic": (
        2,
        case(QUESTIONS, *DYNAMIC, rollouts=(Rollout(meta=5), Rollout(meta=1))),
    ),
    "carried and new Ms": (2, case(rollouts=(Rollout(meta=3, carried=2), Rollout(meta=0, carried=1)))),
    "carried and new Ms, mean over questions": (1, case(QUESTIONS, rollouts=(Rollout(meta=5, carried=2),))),
    "coefficient 0.3": (1, case("--mel.nll_coef=0.3")),
    "a coefficient for each rollout": (2, case(rollouts=(Rollout(),) * 3, coefficients=(0.5, 0.0, 2.0))),
    "gradient checkpointing": (1, case(CHECKPOINTING, micro_batch=4)),
    "gradient checkpointing, ZeRO-3": (2, case(CHECKPOINTING, stage(3))),
    "optimizer offloaded": (2, case(rollouts=FOUR, offload=True)),
    "optimizer offloaded, ZeRO-3": (2, case(stage(3), rollouts=FOUR, offload=True)),
    # M is always conditioned at temperature 1, at any rollout temperature
    "rollout temperature": (1, case("--rollout.temperature=0.7", rollouts=FOUR)),
}
SLOW = {
    "bf16, accumulated in fp32": (2, Case(("--ds.grad_accum_dtype=fp32",), FOUR)),
    "bf16, accumulated in fp32, ZeRO-3": (2, Case((stage(3), "--ds.grad_accum_dtype=fp32"), FOUR)),
    "a coefficient for each rollout, ZeRO-3": (
        2,
        case(stage(3), rollouts=(Rollout(),) * 3, coefficients=(0.5, 0.0, 2.0)),
    ),
    "gradient checkpointing, reentrant": (1, case(CHECKPOINTING, "--actor.gradient_checkpointing_reentrant")),
    "optimizer offloaded, dynamic": (2, case(*DYNAMIC, rollouts=FOUR, offload=True)),
    "optimizer offloaded, ZeRO-1": (2, case(stage(1), rollouts=FOUR, offload=True)),
    "optimizer offloaded, ZeRO-1, dynamic": (2, case(*DYNAMIC, stage(1), rollouts=FOUR, offload=True)),
    "optimizer offloaded, ZeRO-3, dynamic, bf16": (2, Case((*DYNAMIC, stage(3)), FOUR, offload=True)),
    "mean over questions, dynamic": (2, case(QUESTIONS, *DYNAMIC, rollouts=(Rollout(meta=5), Rollout(meta=1)))),
    "rollout temperature, dynamic": (2, case("--rollout.temperature=0.7", *DYNAMIC, rollouts=FOUR)),
    "communication overlapped, ZeRO-2": (2, case("--ds.overlap_comm", rollouts=FOUR)),
    "communication overlapped, ZeRO-3": (2, case("--ds.overlap_comm", stage(3), rollouts=FOUR)),
    "secondary partitions": (4, case("--ds.zpg=2", stage(3), rollouts=FOUR, micro_batch=1)),
}
# 24 samples, 16 per step: a full step and a half one; parameters change between them.
STEPS = {
    "experiences": (1, learning(FP32, rollouts=(Rollout(6, 5),))),
    "questions, 2 epochs": (1, learning(FP32, QUESTIONS, "--train.max_epochs=2", rollouts=(Rollout(6, 5),))),
    "2 ranks, ZeRO-1": (2, learning(FP32, stage(1), rollouts=(Rollout(6, 5),))),
    "2 ranks, ZeRO-3, two rollouts": (2, learning(FP32, stage(3), rollouts=(Rollout(6, 5), Rollout(6, 2, seed=1)))),
    "2 ranks, packed, bf16": (2, learning(*PACKED, rollouts=(Rollout(6, 5),))),
    "2 ranks, dynamic, 2 epochs": (2, learning(FP32, *DYNAMIC, "--train.max_epochs=2", rollouts=(Rollout(8, 5),))),
    "2 ranks, optimizer offloaded": (2, learning(FP32, rollouts=(Rollout(6, 5), Rollout(6, 2, seed=1)), offload=True)),
    "2 ranks, rft": (2, learning(FP32, "--mel.algorithm=rft", rollouts=(Rollout(6, 5),))),
    "2 ranks, dr_grpo": (2, learning(FP32, "--mel.algorithm=dr_grpo", rollouts=(Rollout(6, 5),))),
}


@pytest.mark.parametrize("name", agreement.slow_but(CASES | SLOW, *CASES))
def test_gradient(folder, name):
    count, each = (CASES | SLOW)[name]
    agreement.check(folder, each, count)


def nothing_left(data):
    """Check that no (tokens, vocabulary) or (tokens, experts) matrix of the policy is in memory when the NLL begins."""
    from transformers.utils import ModelOutput

    from openrlhf_mel.upstream.policy_actor import JointTrainer

    internalize = JointTrainer.internalize

    def checked(self):
        gc.collect()
        everything = gc.get_objects()
        held = [
            t.shape for t in everything if torch.is_tensor(t) and t.dim() > 1 and t.size(-1) in (oracle.VOCABULARY, 5)
        ]
        # An auxiliary loss without a coefficient would keep a graph that no backward pass frees.
        held += [
            name for o in everything if isinstance(o, ModelOutput) for name, value in o.items() if value is not None
        ]
        assert not held, f"still in memory: {held}"
        internalize(self)

    JointTrainer.internalize = checked


@pytest.mark.parametrize("flags", [(), DYNAMIC], ids=["padded", "dynamic"])
def test_the_policys_logits_are_gone_when_the_nll_is_learned(folder, flags):
    agreement.check(folder, case(*flags, rollouts=(Rollout(meta=5),), prepare=nothing_left))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Make a mixture of 5 experts, whose output also has router logits and the auxiliary loss."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder = oracle.make_model(tmp_path_factory.mktemp("mixture"))
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=oracle.VOCABULARY, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=256, num_experts=5,
        num_experts_per_tok=2, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("flags", agreement.slow_but([(), DYNAMIC, (stage(3),)], ()), ids=str)
def test_a_mixture_of_experts_leaves_nothing_either(mixture, flags):
    eager = "--ds.experts_implementation=eager"  # one expert at a time, as in the oracle
    agreement.check(mixture, case(eager, *flags, rollouts=(Rollout(meta=0), Rollout(meta=5)), prepare=nothing_left), 2)


def chunks_of_3(data):
    """Use logits of 3 positions at a time: many chunks, which every rank recomputes in its backward."""
    from openrlhf_mel.method import nll_chunks, nll_head

    nll_chunks.CHUNK, nll_chunks.CHUNKS = 3, 99
    recompute = nll_head.checkpoint

    def counted(*args, **options):
        counted.chunks += 1
        return recompute(*args, **options)

    def checked(*args):
        counted.chunks = 0
        found = token_nll(*args)
        assert counted.chunks == -(-found.numel() // 3)
        return found

    token_nll, nll_head.token_nll, nll_head.checkpoint = nll_head.token_nll, checked, counted


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", agreement.slow_but([1, 3], 3), ids=lambda number: f"ZeRO-{number}")
@pytest.mark.parametrize("flags", agreement.slow_but([(), PACKED], PACKED), ids=["padded", "packed"])
def test_gradient_by_several_chunks(folder, flags, number, dtype):
    """One rank has more chunks than the other."""
    precision = (FP32,) if dtype == "fp32" else ()
    rollouts = (Rollout(policy=False), Rollout(meta=5))
    agreement.check(folder, Case((*precision, *flags, stage(number)), rollouts, prepare=chunks_of_3), 2)


@pytest.fixture(scope="module")
def capped(tmp_path_factory):
    """Make a model that caps its logits after the head, so that the head alone does not give M's NLL."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    folder = oracle.make_model(tmp_path_factory.mktemp("capped"))
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=oracle.VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=256, final_logit_softcapping=1.0,
        attn_logit_softcapping=None, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), (stage(3),), DYNAMIC], ids=["ZeRO-2", "ZeRO-3", "dynamic"])
def test_gradient_of_a_model_that_caps_its_logits(capped, flags):
    agreement.check(capped, case(*flags, rollouts=FOUR), 2)


@pytest.mark.parametrize(
    "name", agreement.slow_but(STEPS, "questions, 2 epochs", "2 ranks, ZeRO-3, two rollouts", "2 ranks, packed, bf16")
)
def test_every_m_once_an_epoch_spread_over_the_steps(folder, name):
    outcomes, _ = agreement.check(folder, STEPS[name][1], STEPS[name][0])
    for outcome in outcomes:
        first, second, *_ = outcome.before
        assert any(not torch.equal(first[n], second[n]) for n in first)


@pytest.fixture(scope="module")
def baseline(folder):
    """Return a function giving the parameters after an update by upstream's own trainer."""
    found = {}

    def after(count, *flags):
        if (count, flags) not in found:
            found[count, flags] = ranks.run(folder, learning(*flags, upstream_only=True), count)[0].after
        return found[count, flags]

    return after


COEFFICIENT_0 = {"coefficients": (0.0,)}
NOTHING_KEPT = {"rollouts": (Rollout(meta=0),)}
BASELINES = {  # ranks, flags of both, MEL's additional flags and options
    "coefficient 0": (1, (FP32,), (), COEFFICIENT_0),
    "coefficient 0, bf16": (1, (), (), COEFFICIENT_0),
    "coefficient 0, packed": (1, (FP32, *PACKED), (), COEFFICIENT_0),
    "coefficient 0, ZeRO-2": (2, (FP32,), (), COEFFICIENT_0),
    "coefficient 0, ZeRO-3, bf16": (2, (stage(3),), (), COEFFICIENT_0),
    # Under ZeRO-1 and 2 upstream's own dynamic batches lose gradients (OpenRLHF #1131).
    "coefficient 0, ZeRO-3, dynamic": (2, (FP32, stage(3), *DYNAMIC), (), COEFFICIENT_0),
    "nothing kept": (1, (FP32,), (), NOTHING_KEPT),
    "nothing kept, ZeRO-3, bf16": (2, (stage(3),), (), NOTHING_KEPT),
    "disabled": (1, (FP32,), ("--mel.enable=false",), NOTHING_KEPT),
}


@pytest.mark.parametrize(
    "name",
    agreement.slow_but(
        BASELINES,
        "coefficient 0",
        "coefficient 0, bf16",
        "coefficient 0, ZeRO-2",
        "nothing kept, ZeRO-3, bf16",
        "disabled",
    ),
)
def test_update_without_a_second_term_is_the_baselines_bit_for_bit(folder, baseline, name):
    count, flags, more, options = BASELINES[name]
    found = ranks.run(folder, learning(*flags, *more, **options), count)[0].after
    assert all(torch.equal(found[n], p) for n, p in baseline(count, *flags).items())


def test_update_with_ms_is_another(folder, baseline):
    found = ranks.run(folder, learning(FP32), 1)[0].after
    assert any(not torch.equal(found[n], p) for n, p in baseline(1, FP32).items())


def test_ranks_that_wait_for_each_other_are_ended():
    with pytest.raises(AssertionError, match="2 of 2 ranks were not done after 1 s"):
        nursery.run(_wait, ranks=2, limit=1)


def _wait(rank):
    import time

    time.sleep(1000)


def test_a_rank_that_fails_is_told_of_at_once():
    with pytest.raises(AssertionError, match=r"rank 1: [^$]*ZeroDivisionError"):
        nursery.run(_fail, ranks=2)


def _fail(rank):
    if rank == 1:
        raise ZeroDivisionError
    _wait(rank)
