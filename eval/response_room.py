"""The maximal length of responses beside the model's room: refused where it is too long, or shortened. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eval.messages import Room, Sampling
from openrlhf_mel.errors import UserError


def check_room(max_tokens: int, room: Room) -> None:
    """Raises UserError, with the largest length that fits, where `max_tokens` does not."""
    if max_tokens > room.tokens:
        advice = (
            f"pass --max-tokens {room.tokens} or less, or --shorten" if room.tokens > 0 else "leave the question out"
        )
        raise UserError(
            f"--max-tokens {max_tokens}: the model's context holds {room.positions} tokens, and the longest prompt "
            f"({room.question}) has {room.prompt_tokens}; {advice}"
        )


def shortened(sampling: Sampling, room: Room | None, earlier: Mapping[str, Any]) -> Sampling:
    """`sampling` with a length that fits beside every prompt: one value for all, so that samples can be compared.

    Args:
        room: beside the longest prompt of the command; None where it is not known: nothing is shortened.
        earlier: `settings.sampling` of the samples in the folder. A value that was shortened from the same length stays
            where it fits, also when the command's longest prompt is shorter.

    Raises:
        UserError: the longest prompt leaves no room.
    """
    asked = sampling.max_tokens
    if room is None:
        return sampling
    if room.tokens < 1:
        check_room(asked, room)
    length = min(asked, room.tokens)
    kept = earlier.get("max_tokens") if earlier.get("shortened_from") == asked else None
    if isinstance(kept, int) and 0 < kept <= length:
        length = kept
    return sampling if length == asked else replace(sampling, max_tokens=length, shortened_from=asked)
