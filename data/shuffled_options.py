"""A question of a choice from its text, its right answer and its wrong ones, in a recorded order. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

SEED = 0  # of the order; the report of a preparation names it
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def with_options(question: str, right: str, wrong: Sequence[str], seed: int = SEED) -> tuple[str, str]:
    """The question with all options below it, one a line, and the letter of the right one.

    The order depends on the seed and the texts alone, so it is the same in every copy of a source, whatever the order of
    its rows and columns.

    Raises:
        ValueError: an option is empty, two are equal, or there are more than letters.
    """
    texts = [" ".join(text.split()) for text in (right, *wrong)]
    if "" in texts:
        raise ValueError("an option is empty")
    if len(set(texts)) < len(texts):
        raise ValueError("two options are equal")
    if not 2 <= len(texts) <= len(_LETTERS):
        raise ValueError(f"found {len(texts)} options, expected 2 to {len(_LETTERS)}")
    order = sorted(texts, key=lambda text: hashlib.sha256(f"{seed}\0{question}\0{text}".encode()).digest())
    lines = [f"{letter}) {text}" for letter, text in zip(_LETTERS, order, strict=False)]
    return "\n".join([question.rstrip(), "", *lines]), _LETTERS[order.index(texts[0])]
