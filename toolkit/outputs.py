"""Files that are written atomically: first into a temporary folder, then renamed, the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openrlhf_mel.disk import json_line
from openrlhf_mel.errors import UserError

MANIFEST, REPORT = "manifest.json", "report.json"
_ASIDE = ".partial-"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The rows as lines of JSON; a number that is not finite is an error."""
    return (json_line(row, allow_nan=False) for row in rows)


def json_or_none(path: Path) -> Any:
    """The file's content; None when it does not exist or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def recorded_hashes(folder: Path) -> dict[str, str]:
    """File -> hash, from the manifest of `folder`; empty when there is none."""
    try:
        return dict(json_or_none(folder / MANIFEST)["outputs"])
    except (ValueError, KeyError, TypeError):
        return {}


def check_unchanged(path: Path, sha256: str, recorded: Mapping[str, str]) -> None:
    """Raises UserError when `path` has another hash than in the manifest next to it."""
    if recorded.get(path.name, sha256) != sha256:
        raise UserError(
            f"{path}: its SHA-256 is {sha256[:12]}..., {MANIFEST} beside it says {recorded[path.name][:12]}...: "
            "the file was changed after it was prepared; prepare it again"
        )


def write_lines(path: Path, lines: Iterable[str]) -> str:
    """Write a text file under a temporary name, rename it, and return its sha256."""
    digest = hashlib.sha256()
    aside = path.with_name(f".{path.name}.partial")
    with open(aside, "wb") as file:
        for line in lines:
            data = line.encode()
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    return digest.hexdigest()


class OutputFolder:
    """Collects files in a temporary folder; `commit` renames all of them to their final names.

    A kill before `commit` changes nothing. During `commit` each file is either the old or the new one, and the manifest
    with their hashes is missing until all are in place. The next process removes what a killed one left over.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.sha256: dict[str, str] = {}
        self._aside = folder / f"{_ASIDE}{socket.gethostname()}-{os.getpid()}"
        self._made = False

    def write(self, name: str, lines: Iterable[str]) -> None:
        """Write a text file into the temporary folder; its hash is in `sha256` afterwards."""
        self.sha256[name] = write_lines(self._aside / name, lines)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file into the temporary folder."""
        self.write(name, [json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"])

    def commit(self, manifest: dict[str, Any], outdated: Iterable[str] = ()) -> None:
        """Rename everything into place, and remove `outdated` files that an earlier run may have left."""
        outputs = dict(sorted(self.sha256.items()))
        for name in (*outputs, MANIFEST):
            if (self.folder / name).is_dir():
                raise UserError(f"--output-dir {self.folder}: {name} is a folder there; move it away")
        self.write_json(MANIFEST, manifest | {"outputs": outputs})
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for name in outdated:
            (self.folder / name).unlink(missing_ok=True)
        for name in (*outputs, MANIFEST):
            os.replace(self._aside / name, self.folder / name)

    def __enter__(self) -> OutputFolder:
        try:
            self._made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"{_ASIDE}*"):
                if _owner_is_gone(left.name.removeprefix(_ASIDE)):
                    shutil.rmtree(left, ignore_errors=True)
            self._aside.mkdir()
            return self
        except OSError as error:
            self._tidy()
            raise UserError(
                f"--output-dir {self.folder}: {error.strerror}: {error.filename}; name a folder that can be written"
            ) from None
        except BaseException:  # an interrupt before `with` has begun: there is no `__exit__` for it
            self._tidy()
            raise

    def __exit__(self, *_: object) -> None:
        self._tidy()

    def _tidy(self) -> None:
        shutil.rmtree(self._aside, ignore_errors=True)
        if self._made:
            with contextlib.suppress(OSError):  # it is not empty, or was never created
                self.folder.rmdir()


def _owner_is_gone(name: str) -> bool:
    host, _, pid = name.rpartition("-")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    with contextlib.suppress(PermissionError):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
    return int(pid) == os.getpid()
