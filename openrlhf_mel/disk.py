"""A line of JSON, and the hash of a file: as everything here writes and compares them. Pure Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
