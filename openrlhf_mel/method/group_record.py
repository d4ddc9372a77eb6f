"""A finished group with what was constructed from it: what goes from the generator to the trainer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from openrlhf_mel.method.experience import Group, MetaExperience


@dataclass(frozen=True)
class RolloutInfo:
    """What the trainer is told of a rollout, which may have been made in another process.

    Attributes:
        steps: rollouts that the whole run is expected to have.
        construction_s: seconds in which constructions were under way.
        construction_tail_s: seconds that the rollout waited for them after its last group.
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
