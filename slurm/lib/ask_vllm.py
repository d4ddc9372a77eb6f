"""Asks vLLM the same twice, greedily, on a GPU with a sleep in between: python -m slurm.lib.ask_vllm MODEL cuda | cpu.

Its last line is JSON: `same`, whether both answers are equal, and on a GPU `freed`, the GiB that sleeping freed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from openrlhf_mel.cpu import vllm_arguments

_PROMPT = "2 + 3 ="
_CONTEXT = 2048  # tokens


def main(model: str, device: str) -> int:
    """Print the line."""
    cuda = device == "cuda"
    arguments: dict[str, Any] = {"enable_sleep_mode": True, "gpu_memory_utilization": 0.3}
    if not cuda:
        os.environ.update(vllm_arguments.environment())  # vLLM reads it during its import
        arguments = vllm_arguments.engine_arguments(_CONTEXT, 1)
    import vllm

    llm = vllm.LLM(model=model, max_model_len=_CONTEXT, seed=0, **arguments)

    def said() -> str:
        text: str = llm.generate([_PROMPT], vllm.SamplingParams(temperature=0, max_tokens=16))[0].outputs[0].text
        return text

    first, found = said(), {}
    if cuda:
        found["freed"] = _freed(llm)
    print(json.dumps({"same": said() == first, **found}))
    return 0


def _freed(llm: Any) -> float:
    """GiB that are free while vLLM sleeps, in addition to those before."""
    import torch

    awake = torch.cuda.mem_get_info()[0]
    llm.sleep(level=1)
    asleep = torch.cuda.mem_get_info()[0]
    llm.wake_up()
    return (asleep - awake) / 2**30


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
