"""A finished group with what was constructed from it: what goes from the generator to the trainer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openrlhf_mel.method.experience import Group, MetaExperience


@dataclass(frozen=True)
class RolloutInfo:
    """A rollout's figures for the trainer, which may run in another process, and its Ms of earlier rollouts.

    Attributes:
        steps: expected rollouts of the whole run.
        construction_s: seconds in which a construction was running.
        construction_tail_s: seconds that the rollout waited for constructions after its last group.
        carried: Ms of groups of earlier rollouts, whose construction ended in this one.
        carried_over: constructions that go on in the next rollout.
        carried_wait_s: of the tail, seconds in which the rollout waited for constructions that must not be broken off again.
        rewritten_tokens: generated for constructions that were broken off, in vain.
        idle: share of what the engines could have generated that they did not (`token_timeline.idle`); None: unknown.
    """

    steps: int
    construction_s: float = 0.0
    construction_tail_s: float = 0.0
    carried: tuple[MetaExperience, ...] = ()
    carried_over: int = 0
    carried_wait_s: float = 0.0
    rewritten_tokens: int = 0
    idle: float | None = None


@dataclass(frozen=True)
class GroupRecord:
    """A group, its meta-experiences, each with its pair, and of the first group of a rollout what is to be known of that.

    Attributes:
        candidates: kept and dropped ones; none where the group is not mixed, or their construction goes on.
        rollout: of the rollout that begins with this group; None for a rollout's other groups.
    """

    group: Group
    candidates: tuple[MetaExperience, ...] = ()
    rollout: RolloutInfo | None = None


def constructed(records: Iterable[GroupRecord]) -> list[MetaExperience]:
    """Every M whose construction ended in the rollouts of these records: those of earlier groups, then each group's own."""
    return [m for record in records for m in (*(record.rollout.carried if record.rollout else ()), *record.candidates)]
