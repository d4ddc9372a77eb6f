"""The gradient through Ray: upstream's actor group and its distribution of experiences, Ms and calls."""

import pytest
from e2e_cpu import agreement, nursery, oracle
from e2e_cpu.oracle import Rollout
from e2e_cpu.ranks import DYNAMIC, FP32, Case

pytestmark = [pytest.mark.objective, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROLLOUTS = (Rollout(meta=5), Rollout(meta=1), Rollout(meta=0))
CASES = {
    "ZeRO-3, dynamic": Case((FP32, *DYNAMIC, "--ds.zero_stage=3"), ROLLOUTS),
    "ZeRO-2, padded": Case((FP32,), ROLLOUTS),
    "ZeRO-2, rft, bf16": Case(("--mel.algorithm=rft",), ROLLOUTS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return oracle.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def outcomes(folder):
    cases = list(CASES.values())
    (found,) = nursery.run(_drive, folder, cases, [case.data(folder, 2) for case in cases], 2, limit=500)
    return dict(zip(CASES, found, strict=True))


def _drive(*args):
    from e2e_cpu import ray_actor

    return ray_actor.drive(*args)


@pytest.mark.parametrize("name", CASES)
def test_gradient(folder, outcomes, name):
    agreement.compare(folder, CASES[name], 2, outcomes[name])
