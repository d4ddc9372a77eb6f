"""How a group, its pairs and its Ms travel from the generator to the trainer: as one record, on the group's first sample.

Upstream keeps a group's samples together and in their order: in its buffer, in the asynchronous trainer's queue and in
what it trains on. Of a sample it copies the fields of `Experience` alone, so the record goes no further than the trainer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_mel.method.group_record import GroupRecord


@dataclass
class GroupSample(Experience):
    """Upstream's sample of one response. `record`: its group's, on the group's first sample; None on the others."""

    record: GroupRecord | None = None


def group_sample(experience: Experience) -> GroupSample:
    """The same sample, with room for a record."""
    return GroupSample(**vars(experience))


def attach(first: GroupSample, record: GroupRecord) -> None:
    """Put a group's record on the group's first sample."""
    first.record = record


def records_of(samples: Sequence[GroupSample]) -> list[GroupRecord]:
    """The records of the groups that `samples` holds, in their order."""
    return [sample.record for sample in samples if sample.record is not None]


def common_prompt(responses: Sequence[Mapping[str, Any]]) -> str:
    """The prompt of every response of a group, in upstream's records.

    Raises:
        ValueError: two responses have different prompts, so that they are not of one question.
    """
    first: str = responses[0]["prompt"]
    for number, response in enumerate(responses):
        other = response["prompt"]
        if other != first:
            apart = next((i for i, (a, b) in enumerate(itertools.zip_longest(first, other)) if a != b), 0)
            at = max(0, apart - 20)
            raise ValueError(
                f"a group of {len(responses)} responses: the prompts of responses 0 and {number} differ from character {apart} on: "
                f"{first[at : at + 80]!r} and {other[at : at + 80]!r}; expected one question a group; an agent of your own "
                "(--train.agent_func_path) has to return the prompt that it was given"
            )
    return first
