"""A finished group with what was constructed from it: what goes from the generator to the trainer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from openrlhf_mel.method.experience import Group, MetaExperience


@dataclass(frozen=True)
class RolloutInfo:
    """A rollout's figures for the trainer, which may run in another process.

    Attributes:
        steps: expected rollouts of the whole run.
        construction_s: seconds in which a construction was running.
        construction_tail_s: seconds that the rollout waited for constructions after its last group.
    """

    steps: int
    construction_s: float
    construction_tail_s: float


@dataclass(frozen=True)
class GroupRecord:
    """A group, its meta-experiences, each with its pair, and of the first group of a rollout what is to be known of that.

    Attributes:
        candidates: kept and dropped ones; none where the group is not mixed.
        rollout: of the rollout that begins with this group; None for a rollout's other groups.
    """

    group: Group
    candidates: tuple[MetaExperience, ...] = ()
    rollout: RolloutInfo | None = None
