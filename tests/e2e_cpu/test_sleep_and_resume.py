"""A policy that sleeps between its updates learns the same as one that stays awake, also after a save and a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from e2e_cpu import nursery, oracle, ranks
from e2e_cpu.oracle import Rollout
from e2e_cpu.ranks import FP32, Case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROLLOUTS = (Rollout(meta=5), Rollout(meta=3, seed=1))
CASES = {
    "ZeRO-2": Case((), ROLLOUTS, learning_rate=1e-3),
    "ZeRO-3": Case(("--ds.zero_stage=3",), ROLLOUTS, learning_rate=1e-3),
    "ZeRO-3, fp32": Case(("--ds.zero_stage=3", FP32), ROLLOUTS, learning_rate=1e-3),  # no separate master weights
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sleep_changes_nothing_and_leaves_nothing_in_a_checkpoint(tmp_path, case):
    model = oracle.make_model(tmp_path / "tiny")
    data = case.data(model, 2)

    def run(sleeps: bool, step: int) -> dict[str, torch.Tensor]:
        folder = tmp_path / f"run {sleeps}"
        return nursery.run(_rank, case, model, data[step], ranks.free_port(), folder, sleeps, step > 0, ranks=2)[0]

    for step in (0, 1):  # each in a new process, the second after a resume
        awake, asleep = run(False, step), run(True, step)
        for parameter, value in awake.items():
            assert torch.equal(asleep[parameter], value), parameter
    shards = sorted((tmp_path / "run True").rglob("*_optim_states.pt"))
    assert len(shards) == 4
    for shard in shards:
        states = torch.load(shard, weights_only=False)["optimizer_state_dict"]
        states = states.get("optimizer_state_dict") or states["base_optimizer_state"]
        assert states["state"]
        for state in states["state"].values():
            assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}


def _rank(
    rank: int, case: Case, model: Path, data: Any, port: int, run_dir: Path, sleeps: bool, resume: bool
) -> dict[str, torch.Tensor]:
    """Update the policy as upstream's trainer does, save it, and return its parameters."""
    args = ranks.arguments(case, 2, f"--mel.run_dir={run_dir}")
    args.ds.enable_sleep, args.ckpt.load_enable = sleeps, resume
    strategy, actor = ranks.start(case, args, rank, 2, port, model)
    if sleeps:
        assert actor.actor.model.optimizer.offloaded_states
        actor.reload_states()
    ranks.learn(case, strategy, actor, [data], rank, 2)
    if sleeps:
        actor.offload_states()
    actor.save_checkpoint(f"global_step{1 + resume}", {"episode": 0})
    return ranks.parameters(actor)
