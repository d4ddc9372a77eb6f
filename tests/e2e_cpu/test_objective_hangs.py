"""No combination deadlocks ranks, and each has Eq. 10's gradient. The ranks have a hard time limit."""

import dataclasses

import pytest
from e2e_cpu import agreement, oracle, ranks
from e2e_cpu.oracle import Rollout
from e2e_cpu.ranks import DYNAMIC, FP32, PACKED, Case

pytestmark = [pytest.mark.objective, pytest.mark.timeout(600)]
LIMIT_S = 240.0
LAYOUTS = {
    "ZeRO-2, padded": (),
    "ZeRO-2, dynamic": DYNAMIC,
    "ZeRO-3, padded": ("--ds.zero_stage=3",),
    "ZeRO-3, dynamic": (*DYNAMIC, "--ds.zero_stage=3"),
}
FAST = agreement.slow_but(LAYOUTS, "ZeRO-2, dynamic", "ZeRO-3, padded")
# One engine learns all of these: ranks with and without Ms alternate.
ROLLOUTS = (
    Rollout(meta=1),  # on only one rank
    Rollout(meta=0),
    Rollout(meta=1, seed=1),
    Rollout(meta=5),
    Rollout(meta=0, policy=False),
    Rollout(meta=1, policy=False),
    Rollout(meta=3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return oracle.make_model(tmp_path_factory.mktemp("tiny"))


def check(folder, case, count):
    agreement.check(folder, case, count, limit=LIMIT_S)


@pytest.mark.parametrize("layout", FAST)
def test_ranks_without_ms_and_steps_without_any(folder, layout):
    check(folder, Case((FP32, *LAYOUTS[layout]), ROLLOUTS), 2)


@pytest.mark.parametrize("layout", FAST)
def test_coefficient_0_with_ms_on_some_ranks(folder, layout):
    coefficients = (0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    check(folder, Case((FP32, *LAYOUTS[layout]), ROLLOUTS, coefficients=coefficients), 2)


@pytest.mark.parametrize("layout", agreement.slow_but(["ZeRO-2, dynamic", "ZeRO-3, padded"], "ZeRO-3, padded"))
def test_fewer_ms_than_ranks(folder, layout):
    check(folder, Case((FP32, *LAYOUTS[layout]), (Rollout(meta=3), Rollout(meta=1)), micro_batch=1), 4)


@pytest.mark.parametrize("meta", [1, pytest.param(0, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("flags", [(), PACKED, ("--ds.zero_stage=3",)], ids=["padded", "packed", "ZeRO-3"])
def test_last_partial_batch(folder, flags, meta):
    """24 samples, 16 per step; then rollouts that do not fill a step. All Ms may be in one step."""
    check(folder, Case((FP32, *flags), (Rollout(6, meta), Rollout(2, meta), Rollout(1, meta, seed=1))), 2)


@pytest.mark.parametrize("layout", FAST)
def test_optimizer_offloaded(folder, layout):
    check(folder, Case((FP32, *LAYOUTS[layout]), ROLLOUTS, offload=True), 2)


@pytest.mark.parametrize("layout", FAST)
def test_rft_without_a_correct_response(folder, layout):
    """One rank or all ranks lack correct responses; in the latter case a step has only Ms, or is empty."""
    rollouts = (Rollout(meta=0, correct=()), Rollout(meta=1, correct=()), Rollout(meta=1, correct=(0, 3)))
    check(folder, Case((FP32, "--mel.algorithm=rft", *LAYOUTS[layout]), rollouts), 2)


@pytest.mark.parametrize("stage", [2, 3], ids=lambda stage: f"ZeRO{stage}")
def test_dynamic_rollout_smaller_than_a_step(folder, stage):
    """Upstream makes no step from it, and nothing carries over to the next rollout."""
    case = Case((FP32, *DYNAMIC, f"--ds.zero_stage={stage}"), (Rollout(4, 3), Rollout(2, 3), Rollout(4, 1)))
    full, small, next_one = ranks.run(folder, case, 2, LIMIT_S)
    assert not small.gradients and small.status["mel/learned"] == 0
    whole = dataclasses.replace(case, rollouts=(case.rollouts[0], case.rollouts[2]))
    agreement.compare(folder, whole, 2, [full, next_one])
