"""A checkpoint as a model folder that transformers loads: an export itself, anything else converted once and kept.

`eval.conversion` converts, and says what is trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from eval.checkpoint_files import export_problem
from eval.checkpoint_models import CheckpointModel
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from toolkit.outputs import json_or_none

MARKER = "converted_from.json"
_FORMAT = 1  # version of a converted folder; incremented when the conversion changes its output


def materialise(checkpoint: CheckpointModel, folder: Path) -> Path:
    """A folder with the checkpoint as a model that transformers loads: weights, configurations and tokenizer.

    An export is used directly. Anything else is converted, atomically, into `folder/<label>`, which is used again while
    the checkpoint is unchanged. Conversions into one folder wait for each other.

    Raises:
        UserError: a damaged checkpoint, weights that do not fit the base model, too little room on the disk.
    """
    if checkpoint.problem is not None:
        raise UserError(f"checkpoint {checkpoint.label}: {checkpoint.problem}")
    if checkpoint.kind == "model":
        return checkpoint.source
    target = folder / checkpoint.label
    mark = {"fingerprint": fingerprint(checkpoint), "source": str(checkpoint.source), "step": checkpoint.step}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            found = json_or_none(target / MARKER)
            if not isinstance(found, dict):
                raise UserError(f"{target}: there already, and not made by this command; move it away")
            if found.get("fingerprint") == mark["fingerprint"] and export_problem(target) is None:
                return target
            _discard(target)
        partial = _aside(target)
        shutil.rmtree(partial, ignore_errors=True)  # from a killed process: we hold the lock
        try:
            _convert(checkpoint, partial)
            disk.write_json(partial / MARKER, mark)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextlib.contextmanager
def materialised(checkpoint: CheckpointModel, folder: Path, keep: bool = True) -> Iterator[Path]:
    """`materialise`, and with `keep` false the converted folder is removed afterwards. The run's own files never are."""
    path = materialise(checkpoint, folder)
    try:
        yield path
    finally:
        if not keep and path != checkpoint.source:
            _discard(path)


def fingerprint(checkpoint: CheckpointModel) -> str:
    """A hash of the checkpoint's files (names, sizes, times) and of all else on which a conversion depends."""
    files = sorted(path for path in checkpoint.source.rglob("*") if path.is_file())
    stats = [(str(path.relative_to(checkpoint.source)), *_size_and_time(path)) for path in files]
    lora = {name: value for name, value in checkpoint.run.config.items() if name.startswith("ds.lora.")}
    content = [_FORMAT, checkpoint.label, checkpoint.kind, checkpoint.run.base, lora, stats]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _discard(target: Path) -> None:
    """Remove a converted folder; after a kill no part of it has its name."""
    shutil.rmtree(_aside(target), ignore_errors=True)
    os.replace(target, _aside(target))
    shutil.rmtree(_aside(target))


def _convert(checkpoint: CheckpointModel, target: Path) -> None:
    try:
        from eval import conversion  # imports torch, transformers and DeepSpeed, which takes many seconds
    except ImportError as error:
        raise UserError(
            f"checkpoint {checkpoint.label}: converting it takes the trainer's packages ({error}); install requirements.txt"
        ) from None
    if checkpoint.kind == "adapter":
        conversion.from_adapter(checkpoint.source, checkpoint.run, target)
    else:
        conversion.from_deepspeed(checkpoint.source, checkpoint.run, target)
