"""Starts Ray, replaces upstream's classes by MEL's, and runs upstream's own entry."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import runpy
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_mel.cpu import vllm_arguments
from openrlhf_mel.errors import UserError, first_line
from openrlhf_mel.settings.mel_options import MELConfig
from openrlhf_mel.settings.placement import placement
from openrlhf_mel.settings.resolve import Settings

if TYPE_CHECKING:
    from openrlhf_mel.upstream.watch import EngineWatch

_UPSTREAM_ENV = {  # what upstream's own ray.init would set
    "TOKENIZERS_PARALLELISM": "true",
    "NCCL_DEBUG": "WARN",
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
}
_ENGINE_LOG = os.environ.get("VLLM_LOGGING_LEVEL", "INFO")
_CPU_ENV = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
    "TOKENIZERS_PARALLELISM": "false",  # its threads do not survive a fork
    "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "0",  # upstream writes into received tensors, harmless on a GPU alone
}
# Modules that take long to import and do not import Ray (see `cpu.forks`).
_HEAVY, _HEAVY_OF_VLLM = ("deepspeed",), ("vllm.v1.worker.cpu_model_runner",)
_CPU_SLOTS = 16  # GPUs that Ray assumes on a machine without any, for upstream's placement groups
_JOIN_S = 30
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])
# DeepSpeed calls ninja by name, also when the environment is not activated.
_COMMANDS = str(Path(sys.executable).parent)


def prepare_process(mel: MELConfig) -> None:
    """Make upstream importable in this process: the stand-ins first when there is no GPU."""
    os.environ["PATH"] = os.pathsep.join([_COMMANDS, os.environ.get("PATH", "")])
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # for this process, which only imports vLLM
    # A thread that calls Ray after its end would start it again. Ray reads this variable during its import.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    if mel.runtime == "cpu":
        import torch

        from openrlhf_mel.cpu import standins

        os.environ.update(_cpu_environment(mel))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # torch may have been imported earlier
        getattr(standins, _stand_ins(mel))()


def _cpu_environment(mel: MELConfig) -> dict[str, str]:
    return (vllm_arguments.environment() if mel.cpu_engine == "vllm" else {}) | _CPU_ENV


def _stand_ins(mel: MELConfig) -> str:
    """The function of `cpu.standins` for every process of a run."""
    return "install_beside_vllm" if mel.cpu_engine == "vllm" else "install"


def heavy_modules(mel: MELConfig) -> tuple[str, ...]:
    """The modules to import before workers are forked."""
    return _HEAVY + (_HEAVY_OF_VLLM if mel.cpu_engine == "vllm" else ())


@contextlib.contextmanager
def worker_python(settings: Settings) -> Iterator[str | None]:
    """Yields the program that starts Ray's workers: it forks this process where there is no GPU; else None (Python)."""
    if settings.mel.runtime != "cpu" or _address() != "local":
        yield None
        return
    from openrlhf_mel.cpu import forks

    for module in heavy_modules(settings.mel):
        importlib.import_module(module)
    with forks.forks(_log_as_asked) as program:
        yield program


def _log_as_asked() -> None:
    """Set the log level again in each fork: vLLM read the driver's when the driver imported it."""
    logger = logging.getLogger("vllm")
    logger.setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    for handler in logger.handlers:
        handler.setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def _address() -> str:
    # Without an address Ray would join, or fail to join, whatever cluster was last started on this machine.
    return os.environ.get("RAY_ADDRESS") or "local"


def start_ray(settings: Settings, python: str | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names, or start Ray on this machine.

    Args:
        settings: the run's.
        python: what `worker_python` yields.

    Raises:
        UserError: Ray could not be started or joined.
    """
    address = _address()
    join = address != "local"
    if join and address != "auto":
        _check_reachable(address)
    cpu = settings.mel.runtime == "cpu"
    # A worker finds this package even where it is not installed.
    path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
    env = {name: os.environ.get(name, value) for name, value in _UPSTREAM_ENV.items()} | {"PYTHONPATH": path}
    env["VLLM_LOGGING_LEVEL"] = _ENGINE_LOG
    env["PATH"] = os.pathsep.join([_COMMANDS, "${PATH}"])  # of the worker's node: Ray expands it there
    runtime_env: dict[str, Any] = {"env_vars": env | (_cpu_environment(settings.mel) if cpu else {})}
    options: dict[str, Any] = {"address": address}
    if cpu:
        runtime_env["worker_process_setup_hook"] = f"openrlhf_mel.cpu.standins.{_stand_ins(settings.mel)}"
        if not join:
            options |= {"num_cpus": _CPU_SLOTS, "num_gpus": _CPU_SLOTS, "object_store_memory": 512 * 2**20}
    if python:
        runtime_env["py_executable"] = shlex.quote(python)
    if not join:
        options["include_dashboard"] = False
    try:
        _init_ray(join, runtime_env=runtime_env, **options)
    except Exception as error:
        where = f" at RAY_ADDRESS={address}" if join else ""
        raise UserError(f"Ray cannot start{where}: {first_line(error)}") from None
    _check_devices(settings)


def stop_ray() -> None:
    """Leave the cluster, or end the Ray that `start_ray` started."""
    import ray

    ray.shutdown()


def _init_ray(join: bool, **options: Any) -> None:
    """`ray.init`, with a timeout where a cluster should already run: Ray itself would wait for minutes."""
    import ray

    if not join:
        ray.init(**options)
        return
    failed: list[BaseException] = []

    def connect() -> None:
        try:
            ray.init(**options)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_JOIN_S)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise TimeoutError(f"it did not answer as a Ray cluster within {_JOIN_S} s")


def _check_devices(settings: Settings) -> None:
    """Refuse missing devices: upstream's placement groups would silently wait for them for ever."""
    import ray

    gpus = placement(
        settings.upstream, engines_need_gpus=settings.mel.runtime == "cuda" or settings.mel.cpu_engine == "vllm"
    )
    available = int(ray.cluster_resources().get("GPU", 0))
    if available < gpus.total:
        ray.shutdown()
        raise UserError(
            f"the Ray cluster has {available} GPUs, expected at least {gpus.total}: {gpus.actors} for the "
            f"policy (--actor.num_nodes x --actor.num_gpus_per_node), {gpus.engines} for engines (--vllm.num_engines x "
            f"--vllm.tensor_parallel_size), {gpus.reference} for the reference model (--ref.num_gpus_per_node), "
            f"{gpus.rewards} for reward models (--reward.num_gpus_per_node); change these, or share GPUs with "
            "--train.colocate_all"
        )


def _check_reachable(address: str) -> None:
    """Refuse an address that does not answer: Ray itself would try it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray answers there ({error}); expected host:port of a running cluster, "
            "or unset it to start Ray on this machine"
        ) from None


def substitute(settings: Settings) -> EngineWatch:
    """Replace the classes that upstream's entry looks up by MEL's, and add `mel` to its arguments.

    Returns the watch of the engines that the entry will create.
    """
    import openrlhf.trainer.ray as upstream_ray
    import openrlhf.utils.config as upstream_config
    from openrlhf.trainer import ppo_trainer, ppo_trainer_async
    from openrlhf.trainer.ray import ppo_actor, vllm_engine

    from openrlhf_mel.upstream import async_trainer, engine, policy_actor, rollout_log_probs, trainer, watch

    ppo_trainer.PPOTrainer = trainer.RemoteMELTrainer
    ppo_trainer_async.PPOTrainerAsync = async_trainer.RemoteMELTrainerAsync
    ppo_actor.PolicyModelActor = policy_actor.RemotePolicyModel
    vllm_engine.RolloutRayActor = engine.RemoteRolloutEngine
    if rollout_log_probs.measured(settings.mel, settings.upstream["rollout.top_p"]):
        upstream_ray.create_vllm_engines = rollout_log_probs.returning(upstream_ray.create_vllm_engines)
    if settings.mel.runtime == "cpu":
        _substitute_cpu(settings.mel)
    engine_watch = watch.EngineWatch()
    upstream_ray.create_vllm_engines = engine_watch.around(upstream_ray.create_vllm_engines)
    hierarchize = upstream_config.hierarchize

    def with_mel(args: Any) -> Any:
        nested = hierarchize(args)
        nested.mel = settings.mel
        return nested

    upstream_config.hierarchize = with_mel
    return engine_watch


def _substitute_cpu(mel: MELConfig) -> None:
    import openrlhf.trainer.ray as upstream_ray
    from openrlhf.trainer.ray import ppo_actor, vllm_engine

    from openrlhf_mel.cpu import policy

    ppo_actor.PolicyModelActor = policy.RemoteCPUPolicyModel
    if mel.cpu_engine == "vllm":
        from openrlhf_mel.cpu.vllm_engine import REMOTE

        vllm_engine.RolloutRayActor = REMOTE[mel.cpu_dtype]
    else:
        from openrlhf_mel.cpu import engines

        dtype = {"fp32": "float32", "bf16": "bfloat16"}[mel.cpu_dtype]
        upstream_ray.create_vllm_engines = engines.creating(mel.cpu_engine, dtype)


def run_upstream(settings: Settings) -> None:
    """Upstream's entry, with its own flags and checks, in this process."""
    sys.argv = ["train_ppo_ray", *settings.argv]
    runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__", alter_sys=True)
