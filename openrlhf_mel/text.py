"""Invisible characters, by which texts differ that look equal. Pure."""

from __future__ import annotations

import re

# For a regular expression's class: Unicode's Default_Ignorable_Code_Point (marks of direction, joiners, byte order marks,
# soft hyphens, selectors of variants) except its letters, annotation marks, and controls. White space is kept, also as
# a control. So are U+0007 and U+0008: they alone show that "\alpha" or "\beta" was read with its escape.
INVISIBLE = (
    "\\x00-\\x06\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f"
    "\u00ad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f"
    "\ufeff\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_AFTER_COMMAND = re.compile(rf"(\\[A-Za-z]++)[{INVISIBLE}]+(?=[A-Za-z])")


def without_invisible(text: str) -> str:
    """The text without its invisible characters; spaces of every kind stay.

    One that ends a LaTeX command becomes a space: "\\pi", U+200B, "r" is no "\\pir".
    """
    return _INVISIBLE.sub("", _AFTER_COMMAND.sub(r"\1 ", text))
