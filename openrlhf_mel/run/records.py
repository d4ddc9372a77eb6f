"""The files that a run writes: `manifest.json`, `metrics.jsonl`, `meta_experiences.jsonl` and others.

Lines are appended whole and flushed. Other files are written under a temporary name and renamed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openrlhf_mel.disk import json_line
from openrlhf_mel.method.experience import MetaExperience

METRICS, ARCHIVE, MANIFEST = "metrics.jsonl", "meta_experiences.jsonl", "manifest.json"
EVALUATIONS, WARNINGS = "evaluations.jsonl", "logs/warnings.jsonl"
STOP, STOPPED = "stop", "stopped"  # a stop is requested; the run has stopped and saved
JOB = "job"  # the Slurm job that runs in the folder; slurm/lib/train.sh writes it before the run begins


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The checkout's commit, with `+changes` when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name and rename: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append one JSON line per row, by a single write, and flush them to the disk."""
    data = "".join(map(json_line, rows)).encode()
    with open(path, "ab", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line that a kill cut short is left out."""
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def keep_up_to(path: Path, step: int) -> None:
    """Drop the rows after `step`: a resumed run writes them again."""
    rows = [row for row in read_lines(path) if row["step"] <= step]
    write_text(path, "".join(map(json_line, rows)))


def archive_row(m: MetaExperience, step: int) -> dict[str, Any]:
    """A candidate's line in `meta_experiences.jsonl`. `step` counts rollouts from 1, as in `metrics.jsonl`."""
    return {
        "step": step,
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
