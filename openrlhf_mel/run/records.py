"""The files that a run writes: `manifest.json`, `metrics.jsonl`, `meta_experiences.jsonl` and others.

`docs/run-folder.md` describes each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openrlhf_mel.disk import json_line, read_lines, write_text
from openrlhf_mel.method.experience import MetaExperience

METRICS, ARCHIVE, MANIFEST = "metrics.jsonl", "meta_experiences.jsonl", "manifest.json"
EVALUATIONS, WARNINGS = "evaluations.jsonl", "logs/warnings.jsonl"
STOP, STOPPED = "stop", "stopped"  # a stop is requested; the run has stopped and saved
JOB = "job"  # the Slurm job that runs in the folder; slurm/lib/train.sh writes it before the run begins


def keep_up_to(path: Path, step: int) -> None:
    """Drop the rows after `step`: a resumed run writes them again."""
    rows = [row for row in read_lines(path) if row["step"] <= step]
    write_text(path, "".join(map(json_line, rows)))


def archive_row(m: MetaExperience, step: int) -> dict[str, Any]:
    """A candidate's line in `meta_experiences.jsonl`. Steps count rollouts from 1, as in `metrics.jsonl`.

    `step` is the one in which its construction ended and in which it is learned, `drawn_step` that of its group.
    """
    return {
        "step": step,
        "drawn_step": m.group.rollouts_before + 1 if m.carries else step,
        "question": m.group.question,
        "answer": m.group.answer,
        "y_pos": m.pair.correct.text,
        "y_neg": m.pair.incorrect.text,
        "text": m.text,
        "sections": m.sections,
        "replay": m.replays,
        "replay_scores": m.replay_scores,
        "kept": m.kept,
        "reason": m.reason,
        "error": m.error,
        "leaked": m.leaked,
        "context_tokens": len(m.context_ids),
        "tokens": len(m.token_ids),
        "replay_tokens": m.replay_tokens,
        "y_pos_tokens": len(m.pair.correct.token_ids),
        "y_neg_tokens": len(m.pair.incorrect.token_ids),
    }
