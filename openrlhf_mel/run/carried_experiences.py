"""The Ms that a checkpoint carries over: those whose construction goes on in the rollout after it. Files only.

They are a file of the checkpoint, one M a line, sealed with it: so they are saved whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrlhf_mel import disk
from openrlhf_mel.method.experience import ContrastivePair, Group, MetaExperience, Trajectory
from openrlhf_mel.verifier import Reference

FILE = "carried.jsonl"
STATE = "carried_experiences"  # their rows, among the states of a checkpoint that upstream's trainer hands on


def to_row(m: MetaExperience) -> dict[str, Any]:
    """What the construction still needs. Of the group's responses outside the pair only their scores are kept."""
    group, answer = m.group, m.group.answer
    reference = [answer.scorer, answer.question] if isinstance(answer, Reference) else None
    return {
        "rollouts_before": group.rollouts_before,
        "carries": m.carries,
        "question": group.question,
        "answer": answer,
        "reference": reference,
        "scores": [t.score for t in group.trajectories],
        "correct": _row_of(m.pair.correct),
        "incorrect": _row_of(m.pair.incorrect),
        "context_ids": m.context_ids,
        "token_ids": m.token_ids,
        "text": m.text,
        "leaked": m.leaked,
    }


def from_row(row: dict[str, Any]) -> MetaExperience:
    """The M of `to_row`, as far as its construction needs it."""
    answer = Reference(row["answer"], *row["reference"]) if row["reference"] else row["answer"]
    scores = tuple(Trajectory((), "", score) for score in row["scores"])
    return MetaExperience(
        Group(row["rollouts_before"], row["question"], answer, scores),
        ContrastivePair(_trajectory(row["correct"]), _trajectory(row["incorrect"])),
        context_ids=tuple(row["context_ids"]),
        token_ids=tuple(row["token_ids"]),
        text=row["text"],
        leaked=row["leaked"],
        carries=row["carries"],
    )


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add them to a checkpoint that is not sealed yet; no file where there are none."""
    if rows:
        disk.write_text(folder / FILE, "".join(map(disk.json_line, rows)))


def read(folder: Path) -> list[dict[str, Any]]:
    """Those of a sealed checkpoint."""
    return list(disk.read_lines(folder / FILE))


def _row_of(trajectory: Trajectory) -> dict[str, Any]:
    return {"token_ids": trajectory.token_ids, "text": trajectory.text, "score": trajectory.score}


def _trajectory(row: dict[str, Any]) -> Trajectory:
    return Trajectory(tuple(row["token_ids"]), row["text"], row["score"])
