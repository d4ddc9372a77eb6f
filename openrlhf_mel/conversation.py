"""A row's question: a text or a conversation of one user message, which a table may store as text. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

# How messages begin in JSON and in Python's repr, also in numpy's own form and when serialised twice.
_BEGINS = re.compile(r"""(?:(?:np\.|numpy\.)?array\s*\(|["'])?[\[(\s]*+\{\s*\\?["']""")
_KEYS = [[re.compile(rf"""["']{key}\\?["']\s*:""") for key in keys] for keys in (["role"], ["from", "value"])]
# What Python's repr writes differently from JSON: a text (to the end if it is not closed), a constant, a tuple.
_PYTHON = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*+(?:'|\Z)|"(?:[^"\\]|\\.)*+(?:"|\Z))|\b(?P<name>None|True|False)\b|(?P<open>\()|(?:,\s*+)?\)""",
    re.DOTALL,
)
_NAMES = {"None": "null", "True": "true", "False": "false"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_DECODER = json.JSONDecoder(strict=False)


class Unreadable(ValueError):
    """A text that begins as a conversation does and cannot be read as one."""


def user_message(value: Any) -> Any:
    """The text of a conversation of one user message, also of one stored as text; any other value unchanged.

    Raises Unreadable.
    """
    if isinstance(value, str):
        value = _read(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user":
        return value[0].get("content")
    return value


def _read(text: str) -> Any:
    """The conversation that this text stores as JSON or Python's repr; else the text. Nothing is evaluated."""
    bare = text.strip("\ufeff \t\r\n")
    if not _BEGINS.match(bare) or not any(all(key.search(bare) for key in keys) for keys in _KEYS):
        return text
    for written in (bare, _PYTHON.sub(_as_json, bare)):
        try:
            value, end = _DECODER.raw_decode(written)
            json.dumps(value, ensure_ascii=False).encode()  # raises for half of a UTF-16 pair, which is no text
        except (ValueError, RecursionError):
            continue
        rest = written[end:].lstrip(" \t\r\n,")
        if not rest and isinstance(value, list | dict):
            return value
        if re.search(r"[^\W\d_]", rest) and not _BEGINS.match(rest):
            return text  # a question that begins with an example
    raise Unreadable(
        f"found {text[:60]!r}, which begins as a conversation does and is neither JSON nor Python's repr of one; "
        "expected a text, or a list of one user message"
    )


def _as_json(token: re.Match[str]) -> str:
    if token["name"]:
        return _NAMES[token["name"]]
    if not token["text"]:
        return "[" if token["open"] else "]"
    try:
        return json.dumps(_ESCAPE.sub(_character, token["text"][1:-1]))
    except (KeyError, ValueError, OverflowError):  # no escape of a repr: left unchanged, so that the decoder refuses it
        return token[0]


def _character(escape: re.Match[str]) -> str:
    return _ESCAPES[escape[4]] if escape[4] else chr(int(escape[1] or escape[2] or escape[3], 16))
