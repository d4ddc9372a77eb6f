"""The content policy of a page: what a browser may load and run there. Pure."""

from __future__ import annotations

import base64
import hashlib


def source_hash(text: str) -> str:
    """A script's or style's hash, as `script-src` and `style-src` take it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
