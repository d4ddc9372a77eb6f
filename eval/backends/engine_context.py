"""The longest context for which vLLM starts an engine, as it derives it from a model's config.json. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_MOST = 1e100  # of a length or a factor: their product is finite
_SCALED = ("su", "longrope", "llama3")  # kinds of rotary scaling that the lengths already contain


def engine_context(config: Mapping[str, Any]) -> int | None:
    """The tokens of prompt and response together; None where config.json gives no length, or is malformed there.

    vLLM's rule: `model_max_length`, else the smallest of the lengths; times the factor of the rotary scaling, of YaRN from
    the length before scaling. tests/contract compares this with vLLM.
    """
    try:
        return int(_length(_object(config.get("text_config") or config))) or None
    except _Malformed:
        return None


class _Malformed(Exception):
    """A value of another kind than vLLM reads there."""


def _length(config: Mapping[str, Any]) -> float:
    lengths = [value for name in _LENGTHS if isinstance(value := config.get(name), int)]
    length = _tokens(config.get("model_max_length") or min(lengths, default=None))
    if "gemma3" in str(config.get("model_type")):
        return length
    factor: float = 1
    for rope in _rotary_scalings(config):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in _SCALED:
            factor = _factor(rope.get("factor"), factor)
            if kind == "yarn":
                length = _tokens(rope.get("original_max_position_embeddings") or length)
    return length * factor


def _rotary_scalings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One, or one for each kind of layer."""
    rope = _object(config.get("rope_parameters") or config.get("rope_scaling") or {})
    nested = [part for part in rope.values() if isinstance(part, dict)]
    return nested or [rope]


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Malformed
    return value


def _tokens(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
        raise _Malformed
    return value


def _factor(value: Any, default: float) -> float:
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MOST:
        raise _Malformed
    return value
