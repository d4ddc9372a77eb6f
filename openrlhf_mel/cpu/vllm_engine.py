"""vLLM's CPU build as rollout engine: upstream's own `RolloutRayActor`, with arguments for a machine without a GPU."""

from __future__ import annotations

from typing import Any

import ray

from openrlhf_mel.cpu import vllm_arguments
from openrlhf_mel.upstream.engine import RolloutEngine

_OURS = {"worker_extension_cls": "openrlhf_mel.cpu.vllm_worker.CPUWorkerWrap", "disable_log_stats": True}
ENGINES = 2  # that have to fit into memory together with the policy


class VLLMOnCPU(RolloutEngine):
    """The rollout engine with the arguments of `vllm_arguments.engine_arguments`; upstream fixes bfloat16."""

    dtype = "bfloat16"

    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]  # Ray awaits it
        told = vllm_arguments.engine_arguments(kwargs["max_model_len"], ENGINES)
        await super().__init__(*args, **(kwargs | told | {"dtype": self.dtype, **_OURS}))


class VLLMOnCPUInFP32(VLLMOnCPU):
    """The same in fp32."""

    dtype = "float32"


REMOTE = {"bf16": ray.remote(VLLMOnCPU), "fp32": ray.remote(VLLMOnCPUInFP32)}
