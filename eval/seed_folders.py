"""Where the evaluations of several seeds lie: `OUT/seed-0`, `OUT/seed-1`, ... Pure but for listing a folder."""

from __future__ import annotations

import re
from pathlib import Path

from openrlhf_mel.errors import UserError

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_PREFIX = "seed-"


def parse(text: str | None) -> list[int]:
    """The seeds of `--seeds 0,1,2`, in that order; none without the flag.

    Raises:
        UserError: no seed, one that is no whole number from 0 up, or one that is named twice.
    """
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not _NUMBER.fullmatch(name):
            raise UserError(
                f"--seeds {text}: found {name!r}, expected whole numbers from 0 up with commas between: 0,1,2"
            )
        if names.count(name) > 1:
            raise UserError(f"--seeds {text}: found {name} twice, expected each seed once")
    return [int(name) for name in names]


def place(folder: Path, seed: int) -> Path:
    """The folder of one seed."""
    return folder / f"{_PREFIX}{seed}"


def existing(folder: Path) -> list[Path]:
    """The folders of seeds that are there, by their numbers."""
    found = {path: path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*") if path.is_dir()}
    return sorted((path for path in found if _NUMBER.fullmatch(found[path])), key=lambda path: int(found[path]))
