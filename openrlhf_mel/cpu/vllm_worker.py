"""Upstream's extension of vLLM's worker on a CPU. vLLM imports it in the process that holds the weights.

That process is no Ray worker, so the stand-ins that upstream needs are installed here.
"""

from __future__ import annotations

from typing import Any

from openrlhf_mel.cpu import replaced, standins

standins.install_beside_vllm()
replaced.install(replaced.IN_WORKER)

import torch  # noqa: E402
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402


class _CUDAIsCPU(TorchFunctionMode):
    """`device="cuda"` makes a tensor on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


class CPUWorkerWrap(WorkerWrap):
    """`WorkerWrap` itself, with the CPU where it says cuda."""

    def update_weight(self, name: str, dtype: torch.dtype, shape: Any, empty_cache: bool = False) -> None:
        """Receive one parameter and load it."""
        with _CUDAIsCPU():
            super().update_weight(name, dtype, shape, empty_cache)
