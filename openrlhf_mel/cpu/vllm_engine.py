"""vLLM's CPU build as rollout engine: upstream's own `RolloutRayActor`, told what a machine without a GPU lacks."""

from __future__ import annotations

from typing import Any

import ray

from openrlhf_mel.cpu.vllm_settings import engine_arguments
from openrlhf_mel.upstream.engine import RolloutEngine


class VLLMOnCPU(RolloutEngine):
    """The rollout engine with the arguments of `vllm_settings.engine_arguments`."""

    dtype = "bfloat16"

    async def __init__(self, *args: Any, **kwargs: Any) -> None:
        await super().__init__(*args, **(kwargs | engine_arguments(self.dtype, kwargs["max_model_len"])))


class VLLMOnCPUInFP32(VLLMOnCPU):
    """The same in fp32."""

    dtype = "float32"


REMOTE = {"bf16": ray.remote(VLLMOnCPU), "fp32": ray.remote(VLLMOnCPUInFP32)}
