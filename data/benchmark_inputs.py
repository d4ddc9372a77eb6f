"""Where benchmarks are read from: a folder with a file of each, or the hub."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from data.source_files import HubError, Input, open_file, open_hub
from data.sources import Hub, Source, download_command
from openrlhf_mel.errors import UserError

_ENDINGS = (".jsonl", ".parquet", ".csv")
Opener = Callable[[], Input]


def from_folder(folder: Path, wanted: dict[str, Source]) -> dict[str, Opener | None]:
    """What opens each benchmark that is wanted; None for one that the folder lacks."""
    if not folder.is_dir():
        raise UserError(f"--input-dir {folder}: no such folder; expected one with <benchmark>.jsonl, .parquet or .csv")
    files = {name: _find(folder, name) for name in wanted}
    return {
        name: functools.partial(open_file, path, wanted[name].hub) if path else None for name, path in files.items()
    }


def _find(folder: Path, name: str) -> Path | None:
    for ending in _ENDINGS:
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    found = sorted(path for ending in _ENDINGS for path in folder.glob(f"{name}__*{ending}"))
    if len(found) > 1:
        raise UserError(
            f"--input-dir {folder}: several files for {name}: {', '.join(path.name for path in found)}; keep one"
        )
    return found[0] if found else None


def from_hub(wanted: dict[str, Source]) -> dict[str, Opener | None]:
    """Functions that open benchmarks on the hub; their error says how to download every wanted benchmark."""

    def opened(hub: Hub) -> Input:
        try:
            return open_hub(hub)
        except HubError as error:
            fetched = (
                f"  {download_command(source.hub)} && mv FOLDER/{source.hub.file} FOLDER/{name}{Path(source.hub.file).suffix}"
                for name, source in wanted.items()
                if source.hub
            )
            lines = "\n".join(fetched)
            raise UserError(f"{error}. On a node with internet:\n{lines}\nthen here: --input-dir FOLDER") from None

    return {name: functools.partial(opened, source.hub) if source.hub else None for name, source in wanted.items()}
