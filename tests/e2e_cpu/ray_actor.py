"""The policy actor in Ray, as in a run, with its gradients recorded. Ray's workers import this module by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray
from e2e_cpu import ranks
from e2e_cpu.oracle import Data
from e2e_cpu.ranks import Case, Outcome

from openrlhf_mel.cpu.policy import CPUPolicyModel


class RecordingModel(CPUPolicyModel):
    """The CPU runtime's policy actor with recorded gradients."""

    def record(self, case: Case) -> None:
        """Start recording the next rollout."""
        self._outcome = Outcome()
        ranks.record(case, self.strategy, self, self._outcome)

    def recorded(self) -> Outcome:
        return self._outcome


def drive(rank: int, folder: Path, cases: list[Case], data: list[list[Data]], count: int) -> list[list[Outcome]]:
    """Drive the group of actors as upstream's trainer does, for every case and rollout."""
    from openrlhf.trainer.ray.launcher import RayActorGroup
    from openrlhf.utils import get_strategy

    from openrlhf_mel import launch

    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    settings = cases[0].settings(count)
    launch.prepare_process(settings.mel)
    launch.start_ray(settings)
    try:
        group = RayActorGroup(1, count, ray.remote(num_gpus=1)(RecordingModel), num_gpus_per_actor=1)
        found = []
        for case, of_case in zip(cases, data, strict=True):
            strategy = get_strategy(ranks.arguments(case, count))
            ray.get(group.async_init_model_from_pretrained(strategy, str(folder), 100, None))
            found.append([_learn(group, case, i, rollout, count) for i, rollout in enumerate(of_case)])
        return found
    finally:
        ray.shutdown()


def _learn(group: Any, case: Case, i: int, rollout: Data, count: int) -> Outcome:
    def everywhere(method: str, **arguments: Any) -> list[Any]:
        return ray.get(group.async_run_method(method, **arguments))

    everywhere("record", case=case)
    ray.get(group.async_run_method_batch("append", experience=ranks.experiences(rollout, 0, 1)))
    everywhere("take_rows", rows=rollout.rows, coefficient=case.coefficient(i, count))
    status = everywhere("fit", kl_ctl=0.0)[0]
    outcome = ranks.together(everywhere("recorded"))
    outcome.status = status
    return outcome
