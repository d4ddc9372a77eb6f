"""A run's folder: which run owns it, and the lock by which one process at a time uses it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from openrlhf_mel import disk, provenance
from openrlhf_mel.errors import HeldError, UserError
from openrlhf_mel.run import checkpoint, manifest, records
from openrlhf_mel.settings import mel_options
from openrlhf_mel.settings.resolve import Settings

# How long a lock may outlive its holder, when a node dies: until its lease ends (NFSv4), or it is evicted (Lustre).
LOCK_PATIENCE_S = 180.0
# Keys that may differ on a resume: they follow from the folder, or do not change what is learned.
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


def begun(run_dir: Path) -> dict[str, Any]:
    """The configuration of the run that the folder holds; empty where it holds none."""
    told = _manifest(run_dir)
    return told["config"] if told else {}


def _manifest(run_dir: Path) -> dict[str, Any] | None:
    """The folder's manifest; None where it has none of a run of this package."""
    try:
        told: dict[str, Any] = json.loads((run_dir / records.MANIFEST).read_text(encoding="utf-8"))
        return told if isinstance(told["config"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check(run_dir: Path, config: dict[str, Any], resume: bool) -> bool:
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
    told = _manifest(run_dir)
    if told is None:
        raise UserError(f"{flag}: not empty and not a run of this package; choose another folder")
    if told.get("finished") and not resume:
        raise UserError(f"{flag}: holds a finished run; choose another folder, or remove it")
    before = mel_options.of_earlier_versions()
    old, config = before | told["config"], before | json.loads(json.dumps(config))  # tuples are lists in a file
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
            f"{flag}: holds an unfinished run of this configuration; pass --ckpt.load_enable to resume it "
            "from its last checkpoint, or remove the folder to start afresh"
        )
    return bool(told.get("finished"))


def _is_content(path: Path) -> bool:
    """Whether an entry of the folder belongs to a run, this one or another, not to a start that was killed at once."""
    if path.is_dir() and path.name in ("logs", "checkpoints", "tensorboard"):
        return any(path.iterdir())
    empty = path.is_file() and not path.stat().st_size
    if path.name.startswith((f".{records.MANIFEST}.", f"{records.JOB}.")) or path.name == records.JOB:
        return False
    return not (empty and path.name in (records.STOP, ".lock", records.METRICS, records.ARCHIVE))


@contextlib.contextmanager
def held(run_dir: Path, settings: Settings, scorers: Mapping[str, str] = MappingProxyType({})) -> Iterator[bool]:
    """Create the run's folder and lock it: two runs in one folder would overwrite each other's files.

    Args:
        run_dir, settings: the run's.
        scorers: the functions that the data name as scorers, with the hash of each one's file.

    Yields:
        Whether nothing is left to do: the process that held the lock before has finished the run.

    Raises:
        HeldError: another process holds the lock.
        UserError: as `check`, or the run began with other data, templates or scorers.
    """
    resume = settings.upstream["ckpt.load_enable"]
    for folder in ("logs", "checkpoints", "tensorboard"):
        (run_dir / folder).mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as lock:
        begun_before = (run_dir / records.MANIFEST).exists()
        try:
            _lock(lock, run_dir, LOCK_PATIENCE_S if resume and begun_before else 0)
        except OSError as error:  # some parallel file systems have no locks
            print(
                f"warning: {run_dir} cannot be locked ({error.strerror}): make sure that only one run uses it",
                file=sys.stderr,
            )
        # once more, because the holder before may have begun the run or finished it
        if (run_dir / records.MANIFEST).exists() and check(run_dir, settings.as_dict(), resume):
            yield True
            return
        for name in (records.METRICS, records.ARCHIVE):
            (run_dir / name).touch()
        (run_dir / records.STOPPED).unlink(missing_ok=True)
        if resume:
            checkpoint.prepare(Path(settings.upstream["ckpt.path"]) / "_actor")
        now = manifest.of(settings, scorers)
        if (run_dir / records.MANIFEST).exists():
            first = json.loads((run_dir / records.MANIFEST).read_text(encoding="utf-8"))
            manifest.check_unchanged(run_dir, first, now)
            now |= {"started": first["started"], "resumed": [*first.get("resumed", []), provenance.now()]}
        disk.write_json(run_dir / records.MANIFEST, now)
        yield False


def _lock(file: TextIO, run_dir: Path, patience: float) -> None:
    deadline, told = time.monotonic() + patience, False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise HeldError(
                    f"--mel.run_dir {run_dir}: another process is running in it; choose another folder"
                ) from None
        if not told:
            print(f"{run_dir} is locked, perhaps by a node that died: waiting up to {patience:.0f} s", file=sys.stderr)
            told = True
        time.sleep(min(1.0, patience / 4))


def finish(run_dir: Path) -> None:
    """Rename the model to its final name, and record in the manifest that the run is finished. Under the folder's lock."""
    told = json.loads((run_dir / records.MANIFEST).read_text(encoding="utf-8"))
    partial = run_dir / "model.partial"
    if told["config"]["ckpt.output_dir"] == str(partial):
        checkpoint.replace(partial, run_dir / "model")
    disk.write_json(run_dir / records.MANIFEST, told | {"finished": provenance.now()})
