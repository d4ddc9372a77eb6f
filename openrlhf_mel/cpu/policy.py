"""The policy actor on a CPU: an attention for packed rows, fp32, and weight synchronization through Ray."""

from __future__ import annotations

from typing import Any

import deepspeed
import openrlhf.utils.deepspeed.deepspeed as strategy_module
import openrlhf.utils.utils as upstream_utils
import ray
import torch
from openrlhf.models import Actor
from openrlhf.trainer.ray import ppo_actor
from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config
from torch.distributed.device_mesh import init_device_mesh

from openrlhf_mel.cpu import attention, replaced
from openrlhf_mel.upstream import policy_actor

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class CPUActor(Actor):
    """Upstream's Actor; packing requires flash attention on the command line, which our attention replaces."""

    def __init__(self, *args: Any, attn_implementation: str = "eager", **kwargs: Any) -> None:
        flash = "flash" in attn_implementation
        super().__init__(*args, attn_implementation=attention.NAME if flash else attn_implementation, **kwargs)


class RayBroadcast:
    """Replaces the NCCL group between DeepSpeed's rank 0 and the engines: the same call, through Ray."""

    def __init__(self, engines: list[Any]) -> None:
        self._engines = engines

    def broadcast(self, tensor: torch.Tensor, src: int = 0, stream: Any = None) -> None:
        """Send `tensor` to every engine, each of which waits for it in `update_weight`."""
        reference = ray.put(tensor.detach().cpu())
        ray.get([engine.receive.remote(reference) for engine in self._engines])


class CPUTrainer(policy_actor.JointTrainer):
    """The joint trainer, which sends its weights to the transformers engine through Ray, to vLLM as upstream does."""

    def _init_vllm_sync_group(self, backend: str) -> None:
        if self.mel.cpu_engine == "vllm":
            super()._init_vllm_sync_group(backend)
        else:
            self._model_update_group = RayBroadcast(self.vllm_engines)


class CPUPolicyModel(policy_actor.PolicyModel):
    """The policy actor of the CPU runtime."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """As upstream's, in the number format of `mel.cpu_dtype`."""
        torch.set_num_threads(1)
        install()
        if strategy.args.mel.cpu_engine == "vllm":
            replaced.install(replaced.IN_POLICY)
        strategy.param_dtype = strategy.args.ds.param_dtype = cpu_dtype(strategy.args)
        super().init_model_from_pretrained(strategy, *args, **kwargs)


def cpu_dtype(args: Any) -> str:
    """`fp32` when `mel.cpu_dtype` asks for it, else upstream's `ds.param_dtype`."""
    return "fp32" if args.mel.cpu_dtype == "fp32" else args.ds.param_dtype


def install() -> None:
    """Replace, in this process, the names that upstream's modules look up."""
    attention.register()
    # Two C++ extensions that DeepSpeed would compile for minutes: collectives over shared memory, and a fused Adam.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    strategy_module.get_train_ds_config = _with_torch_adam
    strategy_module.init_device_mesh = lambda device, *args, **kwargs: init_device_mesh("cpu", *args, **kwargs)
    upstream_utils.convert_to_torch_dtype = _DTYPES.__getitem__
    # DeepSpeed's sleep under ZeRO-3 requires its fused Adam, but uses nothing that torch's lacks.
    deepspeed.ops.adam.fused_adam.FusedAdam = torch.optim.AdamW
    ppo_actor.Actor = CPUActor
    ppo_actor.ActorPPOTrainer = CPUTrainer


def _with_torch_adam(*args: Any, optim_config: dict | None = None, **kwargs: Any) -> dict[str, Any]:
    if optim_config is not None:
        optim_config = optim_config | {"params": optim_config["params"] | {"torch_adam": True}}
    return get_train_ds_config(*args, optim_config=optim_config, **kwargs)


RemoteCPUPolicyModel = ray.remote(num_gpus=1)(CPUPolicyModel)
