"""The environment and the engine arguments of vLLM's CPU build, and each engine's share of the machine.

Imports nothing of vLLM, which reads the environment when it is imported.
"""

from __future__ import annotations

import os
from typing import Any

import psutil

_PROMPT_TOKENS = 8192  # of the prompts of one step, unless the context is longer
_MOST_KV_CACHE = 2**30  # bytes per engine, which writes to all of them at its start


def environment(engines: int = 1) -> dict[str, str]:
    """Environment variables of an engine's process, with `engines` of them on this machine."""
    cores = len(os.sched_getaffinity(0))
    return {
        # The engine's process itself computes: one process less to start and to watch.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",  # it would try to reach the network
        # The few functions that vLLM compiles on a CPU take longer to compile than they save.
        "TORCHDYNAMO_DISABLE": "1",
        # Bound threads would be bound to the same cores in every engine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // engines)),
    }


def engine_arguments(context: int, engines: int) -> dict[str, Any]:
    """Arguments of vLLM's engine, in addition to those on a GPU.

    Args:
        context: the most tokens of prompt and response together.
        engines: number of engines that share the memory that is free now.
    """
    free = psutil.virtual_memory().available
    return {
        "enforce_eager": True,
        # The default is nine tenths of all memory, and an error where that is not free. A quarter leaves room for
        # weights.
        "kv_cache_memory_bytes": min(_MOST_KV_CACHE, free // (4 * engines)),
        # A seeded request whose prompt is read in chunks has its generator reset: "CPU Generator does not use offset".
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context, _PROMPT_TOKENS),
        "enable_sleep_mode": False,  # refused on a CPU
    }
