"""Which checkpoints of a run count, which stay, and where a resume goes on. Files only: no torch, no OpenRLHF.

A checkpoint is written under `<tag>.partial`, sealed (every file's size written down and on the disk) and renamed. So a
folder with a tag's name is whole, and a kill at any moment leaves what was there before. Upstream deletes before it
writes, points `latest` at what it may have deleted, and crashes on a half-written folder (OpenRLHF #1310, #1312, #1322).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openrlhf_mel import runlog

SEAL = "sealed.json"
LATEST = "latest"  # DeepSpeed's: the tag that is loaded when none is named
PARTIAL, DELETED = ".partial", ".deleted"
_TAG = re.compile(r"(best_)?global_step(\d{1,18})")


class Incomplete(Exception):
    """A checkpoint that was to be sealed lacks something; the message says what."""


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


def find(folder: Path) -> list[Checkpoint]:
    """The sealed checkpoints, by step (of one step the plain one last); what is damaged or half is passed over."""
    made = [c for path in _folders(folder) if (c := _read(path)) is not None]
    return sorted(made, key=lambda c: (c.step, not c.best))


def newest(folder: Path) -> Checkpoint | None:
    """Where a resume goes on; None where there is nothing whole."""
    return next(reversed(find(folder)), None)


def prepare(folder: Path) -> Checkpoint | None:
    """Make `folder` fit to be loaded from: leftovers removed, `latest` the newest sealed checkpoint.

    Without one nothing stays, since upstream takes an existing folder for a checkpoint. Damaged checkpoints are kept
    aside as `<tag>.damaged`: they may be all that is left of many hours.
    """
    clear(folder)
    for path in list(_folders(folder)):
        if _TAG.fullmatch(path.name) and _read(path) is None:
            path.rename(_free(path.with_name(f"{path.name}.damaged")))
    checkpoint = newest(folder)
    if checkpoint is not None:
        point(folder, checkpoint.tag)
        return checkpoint
    if folder.exists() and any(_folders(folder)):
        folder.rename(_free(folder.with_name(f"{folder.name}.damaged")))
    elif folder.exists():
        shutil.rmtree(folder)
    return None


def clear(folder: Path) -> None:
    """Remove what a kill left half-written or half-deleted."""
    for path in list(_folders(folder)):
        if path.name.endswith((PARTIAL, DELETED)):
            shutil.rmtree(path)


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
    runlog.write_json(partial / SEAL, {"files": files, "metric_key": metric_key, "metric_value": metric})
    _to_disk(partial / SEAL)
    _to_disk(partial)
    sealed = partial.with_name(partial.name.removesuffix(PARTIAL))
    replace(partial, sealed)
    return sealed


def replace(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; one that was there, of a history that a resume has left behind, is removed."""
    _remove(folder)
    new.rename(folder)
    _to_disk(folder.parent)


def point(folder: Path, tag: str) -> None:
    """Name `tag` as what is loaded when no tag is given."""
    runlog.write_text(folder / LATEST, tag)


def rotate(folder: Path, keep: int, most_bytes: float = float("inf")) -> list[str]:
    """Remove plain checkpoints beyond `keep`, and while all together exceed `most_bytes`; returns their tags.

    The newest checkpoint and the best one always stay. Upstream's order: first those without a metric, then the worst,
    then the oldest. Older bests go.
    """
    made = find(folder)
    best = next((c for c in reversed(made) if c.best), None)
    gone = [c for c in made if c.best and c is not best and c is not made[-1]]
    plain = [c for c in made if not c.best]
    removable = sorted(
        (c for c in plain if c is not made[-1]),
        key=lambda c: (c.metric is not None, c.metric if c.metric is not None else 0.0, c.step),
    )
    left, total = len(plain), sum(c.size for c in made) - sum(c.size for c in gone)
    for checkpoint in removable:
        if left <= max(1, keep) and total <= most_bytes:
            break
        gone.append(checkpoint)
        left, total = left - 1, total - checkpoint.size
    for checkpoint in gone:
        _remove(checkpoint.path)
    return [c.tag for c in gone]


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


def _remove(path: Path) -> None:
    """Under another name first, so that a kill on the way leaves no folder that looks like a checkpoint."""
    if path.exists():
        aside = _free(path.with_name(f"{path.name}{DELETED}"))
        path.rename(aside)
        shutil.rmtree(aside)


def _folders(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.iterdir()) if p.is_dir()) if folder.is_dir() else iter(())


def _free(path: Path) -> Path:
    """`path`, or with a number where that is taken."""
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
