"""What DeepSpeed's sleep (`ds.enable_sleep`) leaves in an optimizer's state, kept out of checkpoints.

Under ZeRO-3 each of Adam's moments is copied, when the policy first sleeps, into a host buffer that is an entry of the
optimizer's state from then on (deepspeed/runtime/zero/offload_states.py: `offload_adam_states`); and checkpoints are made
while the policy sleeps. At a resume torch's `Optimizer.load_state_dict` puts all tensors of the state where their parameter
is, buffers too: a GPU then holds 16 bytes instead of 8 for each parameter of its share. The next sleep finds these buffers,
makes none in host memory, and "moves" the moments into them: the 8 bytes do not leave the GPU again.

All else that sleeps is no entry of the state: fp32 weights and gradients have buffers that are attributes of DeepSpeed's
own optimizer, and under ZeRO-1 and 2 a state's copy takes its place under its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

BUFFER = "_offload_buffer"  # the end of such an entry's name: DeepSpeed's `_make_offload_state_key`


def kept_out_of_checkpoints(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Upstream's `strategy.prepare`; the optimizers that it makes save no buffers of sleep, and load none."""

    def prepared(*models: Any) -> Any:
        ready = prepare(*models)
        for model in models:
            if isinstance(model, tuple):  # to be trained: the model, now with its engine, and its configuration
                keep_out_of_checkpoints(model[0].model.basic_optimizer)
        return ready

    return prepared


def keep_out_of_checkpoints(optimizer: torch.optim.Optimizer) -> None:
    """Leave buffers out of what `optimizer` saves, and of what it loads: older checkpoints have them."""
    optimizer.register_state_dict_post_hook(_without_buffers)
    optimizer.register_load_state_dict_pre_hook(_without_buffers)


def _without_buffers(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """`saved` anew, since its dicts are the optimizer's own, which needs its buffers to wake up."""
    state = {
        key: {name: value for name, value in entries.items() if not name.endswith(BUFFER)}
        for key, entries in saved["state"].items()
    }
    return saved | {"state": state}
