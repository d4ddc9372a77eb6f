"""What vLLM is told on a machine without a GPU, and why. Imports nothing of vLLM, which reads the environment early."""

from __future__ import annotations

from typing import Any

ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",  # a few functions that vLLM compiles: 15 s at the first generation, and nothing gained
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # it would bind each engine's threads to the same first cores
    "VLLM_NO_USAGE_STATS": "1",  # it would try to reach the network
}
_KV_CACHE = 2**30  # bytes; a share of the machine's whole memory otherwise, refused where that much is not free
_BATCHED_TOKENS = 8192
WORKER = "openrlhf_mel.cpu.vllm_worker.CPUWorkerWrap"


def engine_arguments(dtype: str, max_model_len: int) -> dict[str, Any]:
    """What differs from the engine arguments of upstream's `create_vllm_engines`.

    Args:
        dtype: torch's name of the number format; upstream has bfloat16 fixed.
        max_model_len: the most tokens of a prompt and its response together.
    """
    return {
        "dtype": dtype,
        "worker_extension_cls": WORKER,
        "enforce_eager": True,  # there are no graphs to capture
        "enable_sleep_mode": False,  # refused on a CPU
        # A prompt read in parts would set back a seeded request's generator: "CPU Generator does not use offset".
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(_BATCHED_TOKENS, max_model_len),
        "kv_cache_memory_bytes": _KV_CACHE,
        "disable_log_stats": True,
    }
