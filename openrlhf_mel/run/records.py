"""What a run leaves behind: `manifest.json`, `metrics.jsonl`, `meta_experiences.jsonl`.

A line is appended whole and flushed; a file that is written at once is written aside and renamed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openrlhf_mel.errors import UserError
from openrlhf_mel.experience import MetaExperience

METRICS, ARCHIVE, MANIFEST = "metrics.jsonl", "meta_experiences.jsonl", "manifest.json"
EVALUATIONS, WARNINGS = "evaluations.jsonl", "logs/warnings.jsonl"
STOP, STOPPED = "stop", "stopped"  # a stop is asked for; it was done, everything being saved
JOB = "job"  # the Slurm job that runs in the folder; slurm/lib/train.sh writes it before the run begins
# What may differ when a run is taken up again: what follows from the folder, and what does not change what is learned.
_RUN_KEYS = {
    "ckpt.max_mem",
    "ckpt.max_num",
    "ckpt.save_steps",
    "logger.logging_steps",
    "vllm.enforce_eager",
    "vllm.gpu_memory_utilization",
    "ckpt.load_enable",
    "ckpt.output_dir",
    "ckpt.path",
    "logger.tensorboard_dir",
    "logger.wandb.run_name",
    "mel.measure_mismatch",
    "mel.run_dir",
}


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The checkout's commit, with `+changes` when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
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
    """Write `value` as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write aside and rename: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append one JSON line a row, by a single write, and flush it to the disk."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
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
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


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


def _is_content(path: Path) -> bool:
    """Whether something in a run's folder shows a run, this one or another, rather than a start that was killed at once."""
    if path.is_dir() and path.name in ("logs", "checkpoints", "tensorboard"):
        return any(path.iterdir())
    empty = path.is_file() and not path.stat().st_size
    if path.name.startswith((f".{MANIFEST}.", f"{JOB}.")) or path.name == JOB:
        return False
    return not (empty and path.name in (STOP, ".lock", METRICS, ARCHIVE))


def check_run_dir(run_dir: Path, config: dict[str, Any], resume: bool) -> bool:
    """Refuse a folder that belongs to another run, or to this one where it is not to be resumed.

    Returns:
        Whether the run that is to be resumed has finished, so that nothing is left to do.

    Raises:
        UserError: naming `--mel.run_dir`, what was found, and what to do.
    """
    flag = f"--mel.run_dir {run_dir}"
    there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{flag}: {there} is a file; expected a folder, or nothing yet")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag}: {there} is not writable; choose another folder")
    if not run_dir.exists() or not any(map(_is_content, run_dir.iterdir())):
        return False
    try:
        manifest = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
        old = manifest["config"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{flag}: not empty and not a run of this package; choose another folder") from None
    if manifest.get("finished") and not resume:
        raise UserError(f"{flag}: holds a finished run; choose another folder, or remove it")
    config = json.loads(json.dumps(config))  # tuples are lists in a file
    differing = [k for k in sorted(old.keys() | config.keys()) if k not in _RUN_KEYS and old.get(k) != config.get(k)]
    if differing:
        k = differing[0]
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise UserError(
            f"{flag}: belongs to another run: {k} is {old.get(k)!r} there and {config.get(k)!r} here{more}; "
            "choose another folder"
        )
    if not resume:
        raise UserError(
            f"{flag}: holds an unfinished run of this configuration; pass --ckpt.load_enable to take it up "
            "from its last checkpoint, or remove the folder to start afresh"
        )
    return bool(manifest.get("finished"))
