"""The content policy of a page: what a browser may load and run there. Pure."""

from __future__ import annotations

import base64
import hashlib


def content_policy(style: str, script: str, **more: str) -> str:
    """Allows a page's own style and script, by their hashes, and pictures within it; `more`: directives, `_` for `-`."""
    policy = {
        "default-src": "'none'",
        "script-src": source_hash(script),
        "style-src": source_hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy |= {name.replace("_", "-"): value for name, value in more.items()}
    return "; ".join(f"{name} {value}" for name, value in policy.items())


def source_hash(text: str) -> str:
    """A script's or style's hash, as `script-src` and `style-src` take it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
