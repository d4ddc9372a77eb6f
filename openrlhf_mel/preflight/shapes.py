"""A model's shapes, from its `config.json` or from the bundled `models.yaml`, and sizes that follow from them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from openrlhf_mel.errors import UserError

_FAMILIES = ("qwen3", "qwen2", "llama", "mistral")  # grouped-query attention, SwiGLU, RMSNorm
_ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with grouped-query attention and SwiGLU. Widths in elements."""

    vocabulary: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    positions: int
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Shape:
        """The shapes in a `config.json`. Raises UserError naming a missing key or an unknown family."""
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise UserError(f"{where}: found model_type {family!r}, expected one of {', '.join(_FAMILIES)}")
        try:
            heads = config["num_attention_heads"]
            bias = bool(config.get("attention_bias", False))
            return cls(
                vocabulary=config["vocab_size"],
                hidden=config["hidden_size"],
                ffn=config["intermediate_size"],
                layers=config["num_hidden_layers"],
                heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                tied=bool(config.get("tie_word_embeddings", False)),
                positions=config["max_position_embeddings"],
                qk_norm=family == "qwen3",
                qkv_bias=family == "qwen2" or (family != "mistral" and bias),
                o_bias=family in ("llama", "qwen3") and bias,
                mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
            )
        except KeyError as error:
            raise UserError(f"{where}: {error.args[0]} is missing; expected the config.json of a {family}") from None

    @property
    def q(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of all key heads together; that of the values as well."""
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the embedding table."""
        return self.vocabulary * self.hidden

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The matrices of a layer: name -> (inputs, outputs)."""
        h, f = self.hidden, self.ffn
        ends = {"q": (h, self.q), "k": (h, self.kv), "v": (h, self.kv), "o": (self.q, h)}
        ends |= {"gate": (h, f), "up": (h, f), "down": (f, h)}
        return {f"{name}_proj": size for name, size in ends.items()}

    @property
    def matrices(self) -> list[int]:
        """Sizes of all matrices, in the model's order; a tied head counts once."""
        layer = [inputs * outputs for inputs, outputs in self.linear.values()]
        return [self.embedding, *layer * self.layers, *([] if self.tied else [self.embedding])]

    @property
    def vectors(self) -> list[int]:
        """Sizes of biases and norms."""
        layer = [self.q, self.kv, self.kv] * self.qkv_bias + [self.hidden] * self.o_bias
        layer += [self.ffn, self.ffn, self.hidden] * self.mlp_bias + [self.head_dim] * 2 * self.qk_norm
        return [*(layer + [self.hidden] * 2) * self.layers, self.hidden]

    @property
    def parameters(self) -> int:
        """Number of parameters; a tied head counts once."""
        return sum(self.matrices) + sum(self.vectors)

    @property
    def multiplied(self) -> int:
        """Parameters that each token is multiplied with: all but the embedding table, unless it is also the head."""
        return self.parameters - (0 if self.tied else self.embedding)

    @property
    def tensors(self) -> int:
        """Number of parameter tensors, which upstream sends to the engines one by one."""
        return len(self.matrices) + len(self.vectors)

    def lora(self, rank: int, targets: Any = "all-linear") -> int:
        """Parameters of LoRA adapters of `rank`; PEFT's `all-linear` leaves the head out."""
        names = _ALL_LINEAR if "all-linear" in ([targets] if isinstance(targets, str) else targets) else targets
        return self.layers * rank * sum(sum(size) for name, size in self.linear.items() if name in names)

    def kv_bytes(self, ranks: int = 1) -> int:
        """Bytes of the bf16 KV cache of a token on one of `ranks` tensor-parallel GPUs, which share no head."""
        return 2 * self.layers * max(1, self.kv_heads // ranks) * self.head_dim * 2


@cache
def bundled() -> dict[str, Shape]:
    """The models of `models.yaml`, by their name on the hub."""
    path = Path(__file__).with_name("models.yaml")
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Shape.of(config, f"{path.name}: {name}") for name, config in table.items()}


def find(name: str, config: Mapping[str, Any] | None = None) -> tuple[Shape | None, str]:
    """The shapes of `--actor.model_name_or_path name` and their source; (None, reason) when they are not known.

    A folder's own `config.json` comes first, then `config` (from the hub), then the bundled ones: by name, or by the
    last part of a path, so that a preset can be checked without its model.
    """
    path = Path(name) / "config.json"
    try:
        if path.is_file():
            return Shape.of(json.loads(path.read_text(encoding="utf-8")), str(path)), str(path)
        if config:
            return Shape.of(config, f"{name} on the hub"), f"{name} on the hub"
    except UserError as error:
        return None, str(error)
    except ValueError:
        return None, f"{path}: not JSON"
    for known, shape in bundled().items():
        if name == known or os.path.basename(name.rstrip("/")) == known.split("/")[1]:
            return shape, f"bundled shapes of {known}"
    return None, f"{name}: not one of the bundled models ({', '.join(bundled())})"
