"""Files, as everything here writes, reads and compares them. Pure Python.

Lines are appended whole and flushed. Other files are written under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Line separators of Unicode, at which some readers split lines.
_SEPARATORS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"})


def json_line(row: Mapping[str, Any], allow_nan: bool = True) -> str:
    """The row as a line of JSON, with its end; Unicode's line separators are escaped.

    Raises:
        ValueError: a number is not finite, and `allow_nan` is false.
    """
    return json.dumps(row, ensure_ascii=False, allow_nan=allow_nan).translate(_SEPARATORS) + "\n"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
