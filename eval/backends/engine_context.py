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
_SCALED = ("su", "longrope", "llama3")  # kinds of rotary scaling that the lengths already contain


def engine_context(config: Mapping[str, Any]) -> int | None:
    """The tokens of prompt and response together; None where config.json gives no length.

    vLLM's rule: `model_max_length`, else the smallest of the lengths; times the factor of the rotary scaling, of YaRN from
    the length before scaling. tests/contract compares this with vLLM.
    """
    config = config.get("text_config") or config
    lengths = [value for name in _LENGTHS if isinstance(value := config.get(name), int)]
    length: float | None = config.get("model_max_length") or min(lengths, default=None)
    if not isinstance(length, int):
        return None
    if "gemma3" not in str(config.get("model_type")):
        factor: float = 1
        for rope in _rotary_scalings(config):
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind not in _SCALED:
                factor = rope.get("factor") or factor
                if kind == "yarn":
                    length = rope.get("original_max_position_embeddings") or length
        length *= factor
    return int(length)


def _rotary_scalings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One, or one for each kind of layer."""
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = [part for part in rope.values() if isinstance(part, dict)]
    return nested or [rope]
