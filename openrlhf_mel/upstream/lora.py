"""Weight synchronization with LoRA: the engine gets the merged weights.

Upstream sends every parameter under the name that it has in the policy. With LoRA these are PEFT's names, with adapters
and base weights separate, which an engine with the plain model cannot load. Here the adapters are merged into the base
weights while upstream sends them, under the base model's names. Afterwards a copy restores the base weights exactly;
subtracting the adapters would leave rounding errors, which accumulate step by step in bf16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
import torch.nn as nn
from peft import PeftModel
from peft.tuners.lora import LoraLayer


@contextlib.contextmanager
def merged(module: nn.Module, weights: bool = True) -> Iterator[None]:
    """Within this context `module`'s parameters are merged and have the base model's names. Without LoRA: no change.

    Args:
        weights: whether this process's weights are sent; if not, only the names are changed. Under ZeRO-3 the value is
            the same on every rank.
    """
    if not isinstance(module, PeftModel):
        yield
        return
    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)] if weights else []
    kept = [_merge(layer) for layer in layers]
    named = list(_base_names(module))
    module.named_parameters = lambda *args, **kwargs: iter(named)
    try:
        yield
    finally:
        del module.named_parameters
        for layer, weight in zip(layers, kept, strict=True):
            _own(layer.get_base_layer().weight).copy_(weight)


@torch.no_grad()
def _merge(layer: Any) -> torch.Tensor:
    """Add the adapter to the base weight; returns a copy of this process's part from before, in host memory."""
    base = layer.get_base_layer().weight
    kept = _own(base).to("cpu", copy=True)
    name = layer.active_adapter[0] if isinstance(layer.active_adapter, list) else layer.active_adapter
    factors = [p for n, p in layer.named_parameters() if "lora_" in n]
    zero3 = hasattr(base, "ds_id")
    with contextlib.ExitStack() as gathered:
        for factor in factors:  # one by one: given several, DeepSpeed 0.19.6 waits for the last alone
            gathered.enter_context(deepspeed.zero.GatheredParameters([factor], enabled=zero3))
        gathered.enter_context(deepspeed.zero.GatheredParameters([base], modifier_rank=0, enabled=zero3))
        base.data += layer.get_delta_weight(name).to(base.dtype)
    return kept


def _own(parameter: nn.Parameter) -> torch.Tensor:
    """This process's part of a parameter: its partition under ZeRO-3, else the whole."""
    if hasattr(parameter, "ds_id"):
        partition: torch.Tensor = parameter.ds_tensor  # type: ignore[attr-defined]  # DeepSpeed's
        return partition.data
    return parameter.data


def _base_names(module: PeftModel) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module.get_base_model().named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), parameter
