"""Stand-ins for what OpenRLHF needs and a machine without a GPU lacks: flash-attn, CUDA calls, and possibly vLLM.

`install`, or with real vLLM `install_beside_vllm`, runs in the driver and, as Ray's `worker_process_setup_hook`, at the
start of every worker: OpenRLHF imports these packages at the top of its modules. It imports torch, and nothing of
OpenRLHF. The stand-in for vLLM serves the transformers engine, which also runs where vLLM is not available.
"""

from __future__ import annotations

import gc
import importlib.machinery
import os
import sys
import types
import uuid
from dataclasses import dataclass
from typing import Any

import torch

from openrlhf_mel.settings import vllm_build


@dataclass
class SamplingParams:
    """The fields of vLLM's `SamplingParams` that OpenRLHF and MEL set."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = 16
    min_tokens: int = 0
    skip_special_tokens: bool = True
    logprobs: int | None = None
    extra_args: dict[str, Any] | None = None


class _CPUDevice(str):
    """Says `cpu` as a device and `0` inside upstream's `f"cuda:{...}"`."""

    def __format__(self, spec: str) -> str:
        return "0"


def install() -> None:
    """Put all stand-ins in place, vLLM's too. Safe to call again."""
    install_beside_vllm()
    if "vllm" not in sys.modules:
        _module("vllm", __version__=vllm_build.VERSION, __mel_standin__=True, SamplingParams=SamplingParams)
        _module("vllm.inputs", TokensPrompt=dict)
        _module("vllm.utils", random_uuid=lambda: uuid.uuid4().hex)


def install_beside_vllm() -> None:
    """Put all but vLLM's in place. Safe to call again."""
    if "flash_attn" in sys.modules:
        return
    # Imports take 15 s in each process; with a threshold of 700, garbage collection takes an eighth of that.
    gc.set_threshold(100_000)
    os.environ["DS_ACCELERATOR"] = "cpu"
    _cuda()
    _module("flash_attn")
    _module(
        "flash_attn.bert_padding",
        index_first_axis=lambda x, indices: x[indices],
        pad_input=_from_transformers("_pad_input"),
        unpad_input=_from_transformers("_unpad_input"),
        rearrange=_rearrange,
    )
    _module("flash_attn.utils")
    _module("flash_attn.utils.distributed", all_gather=None)


def _cuda() -> None:
    torch.cuda.current_device = lambda: _CPUDevice("cpu")  # type: ignore[assignment, return-value]  # an int on CUDA
    for name in ("set_device", "synchronize", "empty_cache", "current_stream"):
        setattr(torch.cuda, name, lambda *_: None)


def _module(name: str, **attributes: Any) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # transformers asks `find_spec`
    module.__dict__.update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _from_transformers(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        import transformers.modeling_flash_attention_utils as flash

        return getattr(flash, name)(*args, **kwargs)

    return call


def _rearrange(*args: Any, **kwargs: Any) -> Any:
    import einops

    return einops.rearrange(*args, **kwargs)
