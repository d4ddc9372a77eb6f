"""Eq. 10's gradient for everything that a CPU can run: ranks x ZeRO x batch layout x number format x Ms per rank."""

import pytest
from e2e_cpu import agreement, oracle
from e2e_cpu.oracle import Rollout
from e2e_cpu.ranks import DYNAMIC, FP32, PACKED, Case

pytestmark = [pytest.mark.objective, pytest.mark.slow, pytest.mark.timeout(600)]
BATCH = 16
LAYOUTS = {  # flags, policy micro-batches on each rank
    "padded": ((), 1),
    "padded, accumulated": ((), 4),
    "packed": (PACKED, 1),
    "packed, accumulated": (PACKED, 4),
    "dynamic, one": ((*DYNAMIC, "--train.max_tokens_per_gpu=1024"), 1),
    "dynamic, several": (DYNAMIC, None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return oracle.make_model(tmp_path_factory.mktemp("tiny"))


def rollouts(count: int) -> tuple[Rollout, ...]:
    """Cover the policy alone, the NLL alone, both, neither; Ms in equal shares, unequal shares, fewer than ranks."""
    ms = ({"meta": 2 * count, "equal": True}, {"meta": 2 * count + 1}, {"meta": 1})
    return (
        Rollout(meta=0),
        *(Rollout(policy=False, **m) for m in ms),
        *(Rollout(**m) for m in ms),
        Rollout(meta=0, policy=False),
    )


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.release)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stage", [1, 2, 3], ids=lambda stage: f"ZeRO{stage}")
@pytest.mark.parametrize("count", [1, 2, pytest.param(4, marks=pytest.mark.release)], ids=lambda count: f"DP{count}")
def test_gradient(folder, count, stage, layout, dtype, record_property):
    flags, micro_batches = LAYOUTS[layout]
    case = Case(
        (*flags, f"--ds.zero_stage={stage}", *([FP32] if dtype == "fp32" else [])),
        rollouts(count),
        train_batch=BATCH,
        micro_batch=BATCH // count // (micro_batches or 1),
    )
    outcomes, (over_all, worst) = agreement.check(folder, case, count)
    record_property("over all", over_all)
    record_property("worst tensor", worst)
    for outcome in outcomes:
        assert outcome.micro_batches == micro_batches if micro_batches else outcome.micro_batches > 1
