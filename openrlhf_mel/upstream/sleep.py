"""Keeps the buffers of DeepSpeed's sleep (`ds.enable_sleep`) out of checkpoints.

Under ZeRO-3 the policy's first sleep copies each of Adam's moments into a host buffer, which stays an entry of the
optimizer's state (deepspeed/runtime/zero/offload_states.py: `offload_adam_states`). Checkpoints are saved while the
policy sleeps, so they would contain the buffers. At a resume torch's `Optimizer.load_state_dict` moves all tensors of
the state to their parameter's device, buffers too: a GPU then holds 16 bytes instead of 8 for each parameter of its
partition. The next sleep finds these buffers, creates none in host memory, and "moves" the moments into them: the 8
bytes stay on the GPU.

Nothing else that sleeps is an entry of the state: the buffers of fp32 weights and gradients are attributes of
DeepSpeed's own optimizer, and under ZeRO-1 and 2 a state's copy replaces it under the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

BUFFER = "_offload_buffer"  # the end of such an entry's name: DeepSpeed's `_make_offload_state_key`


def kept_out_of_checkpoints(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Upstream's `strategy.prepare`, whose optimizers neither save nor load buffers of sleep."""

    def prepared(*models: Any) -> Any:
        ready = prepare(*models)
        for model in models:
            if isinstance(model, tuple):  # a model to be trained: (the model, now in its engine, ...)
                keep_out_of_checkpoints(model[0].model.basic_optimizer)
        return ready

    return prepared


def keep_out_of_checkpoints(optimizer: torch.optim.Optimizer) -> None:
    """Leave buffers out of what `optimizer` saves, and of what it loads: older checkpoints have them."""
    optimizer.register_state_dict_post_hook(_without_buffers)
    optimizer.register_load_state_dict_pre_hook(_without_buffers)


def _without_buffers(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A copy of `saved` without buffers; its dicts are the optimizer's own, which needs the buffers to wake up."""
    state = {
        key: {name: value for name, value in entries.items() if not name.endswith(BUFFER)}
        for key, entries in saved["state"].items()
    }
    return saved | {"state": state}
