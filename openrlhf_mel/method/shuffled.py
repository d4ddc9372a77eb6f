"""The control of `mel.experience: shuffled`: Ms that do not fit the questions that learn them. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

from openrlhf_mel.method.experience import MetaExperience


def shuffle_experiences(experiences: Sequence[MetaExperience], seed: int, steps_before: int) -> list[MetaExperience]:
    """Give each context the M of another question.

    Contexts are ordered in blocks, one per question, in random order. Ms are rotated by the size of the largest block,
    so no question gets its own M. If one question has more than half of the Ms, the rows that would are left out.
    """
    rng = random.Random(f"{seed}/{steps_before}")
    questions = sorted({e.group.question for e in experiences})
    rng.shuffle(questions)
    rank = {question: i for i, question in enumerate(questions)}
    ordered = sorted(experiences, key=lambda e: (rank[e.group.question], e.token_ids))
    largest = max((sum(e.group.question == q for e in ordered) for q in questions), default=0)
    rows = []
    for i, context in enumerate(ordered):
        other = ordered[(i + largest) % len(ordered)]
        if other.group.question != context.group.question:
            rows.append(
                MetaExperience(
                    context.group, context.pair, context.context_ids, other.token_ids, other.text, other.sections
                )
            )
    return rows
