"""Weight synchronization without NCCL: a gloo group instead of vLLM's `PyNcclCommunicator`."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed import BroadcastOptions


class GlooGroup:
    """Arguments and `broadcast` as of upstream's `stateless_init_process_group`, over gloo.

    As with upstream's, the processes share no default process group.
    """

    def __init__(self, master_address: str, master_port: int, rank: int, world_size: int, device: Any) -> None:
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        self._group = stateless_init_torch_distributed_process_group(
            master_address, master_port, rank, world_size, "gloo"
        )

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        """Send `tensor` of rank `src`, or receive into it; returns when it is done."""
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        self._group.broadcast([tensor.detach()], options).wait()
