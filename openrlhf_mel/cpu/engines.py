"""The rollout engines of a machine without a GPU beside vLLM, by their names in `mel.cpu_engine`."""

from __future__ import annotations

from typing import Any

import ray

from openrlhf_mel.cpu.transformers_engine import TransformersEngine

ENGINES: dict[str, type[TransformersEngine]] = {"transformers": TransformersEngine}


def creating(name: str, dtype: str) -> Any:
    """A function with the signature of upstream's `create_vllm_engines` that makes engines of this name.

    Args:
        dtype: of the weights, torch's name.
    """

    def create(
        num_engines: int,
        tensor_parallel_size: int,
        pretrain: str,
        seed: int,
        *args: Any,
        agent_func_path: str | None = None,
        remote_rm_url: Any = None,
        max_images_per_prompt: int = 0,
    ) -> list[Any]:
        actor = ray.remote(ENGINES[name]).options(num_cpus=0.1)
        return [actor.remote(pretrain, dtype, seed + i, agent_func_path, remote_rm_url) for i in range(num_engines)]

    return create
