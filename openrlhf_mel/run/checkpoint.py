"""Which checkpoints of a run are whole, which are kept, and from which a run resumes. Files only, without torch.

A checkpoint is written under `<tag>.partial`, sealed (every file is flushed to disk; its size and a digest of its ends
are recorded) and renamed. So a folder with a tag's name is whole, and a kill at any moment leaves earlier checkpoints
intact. Upstream deletes before it writes, points `latest` at what it may have deleted, and crashes on a half-written
folder (OpenRLHF #1310, #1312, #1322).

Leftovers are removed when possible. An old checkpoint that cannot be removed (on NFS a file that is still read stays)
does not end a run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openrlhf_mel import disk

SEAL = "sealed.json"
LATEST = "latest"  # DeepSpeed's: the tag that is loaded when none is named
PARTIAL, DELETED = ".partial", ".deleted"
_TAG = re.compile(r"(best_)?global_step(\d{1,18})")
_END = 2**20  # bytes of a file's beginning, and of its end, that a seal's digest covers

logger = logging.getLogger(__name__)
_already_told: set[Path] = set()


class Incomplete(Exception):
    """A checkpoint that should be sealed is incomplete; the message says what is missing."""


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint: `step` of training, `best` by the run's metric, and that metric's value where it has one."""

    path: Path
    step: int
    best: bool
    metric: float | None
    size: int

    @property
    def tag(self) -> str:
        """Its name: `global_step<n>`, or `best_global_step<n>`."""
        return self.path.name


def step_of(name: str) -> int | None:
    """The step of a checkpoint's tag, `global_step<n>` or `best_global_step<n>`; None for another name."""
    match = _TAG.fullmatch(name)
    return int(match[2]) if match else None


def problem(path: Path) -> str | None:
    """Why the checkpoint `path` is not as it was sealed; None where it is.

    As sealed: every file exists and has its size, its first MiB and its last MiB. This detects truncated, zeroed,
    swapped and missing files in seconds for any size, but no change between a large file's ends.

    Raises:
        OSError: a file cannot be read: that may be temporary, and does not mean that it is damaged.
    """
    try:
        sealed = json.loads((path / SEAL).read_text(encoding="utf-8"))
        missing = [name for name in sealed["files"] if not (path / name).exists()]
        if missing:
            return f"{path} lacks {', '.join(missing[:4])}{' and more' if len(missing) > 4 else ''}"
        ends = sealed.get("ends", {})  # older seals have sizes alone, no digests
        for name, size in sealed["files"].items():
            file = path / name
            if file.stat().st_size != size or (name in ends and _digest_ends(file) != ends[name]):
                return f"{file} is cut short or damaged: it is not as it was saved"
    except FileNotFoundError:
        return f"{path / SEAL} is missing: its save was not finished"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path / SEAL} is damaged"
    return None if _read(path) else f"{path / SEAL} is damaged"


def find(folder: Path) -> list[Checkpoint]:
    """The sealed checkpoints, by step (of one step the plain one last); damaged and incomplete ones are skipped."""
    made = [c for path in _folders(folder) if (c := _read(path)) is not None]
    return sorted(made, key=lambda c: (c.step, not c.best))


def newest(folder: Path) -> Checkpoint | None:
    """The checkpoint from which a run resumes; None when none is whole."""
    return next(reversed(find(folder)), None)


def prepare(folder: Path) -> Checkpoint | None:
    """Prepare `folder` for loading: remove leftovers, point `latest` at the newest checkpoint without a `problem`.

    Damaged checkpoints are renamed to `<tag>.damaged` and kept: they may be all that is left of many hours. When no
    checkpoint is whole, the folder itself is renamed or removed, because upstream takes an existing one for a
    checkpoint.

    Raises:
        OSError: a checkpoint cannot be read at the moment; it is not renamed for that.
    """
    clear(folder)
    for path in list(_folders(folder)):
        if _TAG.fullmatch(path.name) and problem(path) is not None:
            aside = path.rename(_free(path.with_name(f"{path.name}.damaged")))
            logger.warning("checkpoint %s is not as it was saved: kept aside as %s, and not used", path, aside.name)
    checkpoint = newest(folder)
    if checkpoint is not None:
        point(folder, checkpoint.tag)
        return checkpoint
    if folder.exists() and any(_folders(folder)):
        folder.rename(_free(folder.with_name(f"{folder.name}.damaged")))
    elif folder.exists():
        _delete(folder.rename(_free(folder.with_name(f"{folder.name}{DELETED}"))))
    return None


def clear(folder: Path) -> None:
    """Remove what a kill left half-written or half-deleted."""
    for path in list(_folders(folder)):
        if path.name.endswith(PARTIAL):
            _remove(path)  # renamed first: leftovers must not mix with the next save
        elif path.name.endswith(DELETED):
            _delete(path)


def seal(partial: Path, ranks: int, metric: float | None, metric_key: str | None) -> Path:
    """Give `<tag>.partial` its name once it is whole.

    Args:
        ranks: processes that wrote a part of the optimizer's state.
        metric, metric_key: the evaluation's value, by which upstream ranks checkpoints.

    Raises:
        Incomplete: naming what is missing.
    """
    files = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
    shards = sum(name.endswith("_optim_states.pt") for name in files)
    if shards != ranks:
        raise Incomplete(f"{partial}: found {shards} files *_optim_states.pt, expected one of each of {ranks} ranks")
    if not any(name.endswith("_model_states.pt") for name in files):
        raise Incomplete(f"{partial}: found no *_model_states.pt")
    if empty := [name for name, size in files.items() if not size]:
        raise Incomplete(f"{partial}: {empty[0]} is empty")
    for name in files:
        _to_disk(partial / name)
    ends = {name: _digest_ends(partial / name) for name in files}
    disk.write_json(partial / SEAL, {"files": files, "ends": ends, "metric_key": metric_key, "metric_value": metric})
    _to_disk(partial / SEAL)
    _to_disk(partial)
    sealed = partial.with_name(partial.name.removesuffix(PARTIAL))
    replace(partial, sealed)
    return sealed


def replace(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`. An existing `folder`, from steps that a resume has discarded, is removed."""
    _remove(folder)
    new.rename(folder)
    _to_disk(folder.parent)


def point(folder: Path, tag: str) -> None:
    """Make `tag` the one that is loaded when no tag is given."""
    disk.write_text(folder / LATEST, tag)


def pointed_at(folder: Path) -> Path | None:
    """The checkpoint that is loaded when no tag is given; None where there is none."""
    return folder / (folder / LATEST).read_text(encoding="utf-8") if (folder / LATEST).exists() else None


def best(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that was the best by a metric when it was saved; None when there is none."""
    return next((c for c in reversed(find(folder)) if c.best and c.metric is not None), None)


def rotate(folder: Path, keep: int, most_bytes: float = float("inf")) -> list[str]:
    """Remove plain checkpoints beyond `keep`, and while all together exceed `most_bytes`; returns their tags.

    The newest and the best checkpoint are always kept; older bests are removed. Of the plain ones the oldest are
    removed first. Upstream removes the worst, but a step is saved before its evaluation, so its metric is another
    step's.
    """
    made = find(folder)
    last_best = next((c for c in reversed(made) if c.best), None)
    gone = [c for c in made if c.best and c is not last_best and c is not made[-1]]
    plain = [c for c in made if not c.best]
    removable = [c for c in plain if c is not made[-1]]
    left, total = len(plain), sum(c.size for c in made) - sum(c.size for c in gone)
    for checkpoint in removable:
        if left <= max(1, keep) and total <= most_bytes:
            break
        gone.append(checkpoint)
        left, total = left - 1, total - checkpoint.size
    return [c.tag for c in gone if _remove(c.path)]


def _read(path: Path) -> Checkpoint | None:
    match = _TAG.fullmatch(path.name)
    if match is None:
        return None
    try:
        sealed = json.loads((path / SEAL).read_text(encoding="utf-8"))
        files, metric = sealed["files"], sealed["metric_value"]
        if any((path / name).stat().st_size != size for name, size in files.items()):
            return None
        if not (metric is None or isinstance(metric, int | float)):
            return None
        return Checkpoint(path, int(match[2]), match[1] is not None, metric, sum(files.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest_ends(path: Path) -> str:
    """SHA-256 of a file's first and last `_END` bytes; of the whole file when it is not longer than both."""
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()


def _remove(path: Path) -> bool:
    """Rename, then remove, so that a kill in between leaves no folder that looks like a checkpoint.

    Returns:
        Whether nothing has the name `path` any more.
    """
    if path.exists():
        aside = _free(path.with_name(f"{path.name}{DELETED}"))
        try:
            path.rename(aside)
        except OSError as error:
            _tell_once(path, error)
            return False
        _delete(aside)
    return True


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        _tell_once(path, error)


def _tell_once(path: Path, error: OSError) -> None:
    if path not in _already_told:
        _already_told.add(path)
        logger.warning("%s cannot be removed, and occupies disk space until it can: %s", path, error)


def _folders(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.iterdir()) if p.is_dir()) if folder.is_dir() else iter(())


def _free(path: Path) -> Path:
    """`path`, with a number appended when that name is taken."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}{number}{path.suffix}")
    return candidate


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
