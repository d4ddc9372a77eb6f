"""The parts of vLLM 0.29.0 that this package, eval/ and OpenRLHF's rollouts use, and a check that vLLM has them.

This is a script, because in the tests' process a stand-in may have the name vllm. It imports vLLM and prints as JSON
its version and file, its differences from the tables, the differences with each name of the tables removed, and the
arguments that the stand-ins must have.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import sys
import textwrap
from typing import Any, get_args

import pytest

ENGINE = "vllm.AsyncLLMEngine"
WORKERS = ("vllm.v1.worker.cpu_worker.CPUWorker", "vllm.v1.worker.gpu_worker.Worker")
MODELS = ("vllm.model_executor.models.qwen2.Qwen2ForCausalLM", "vllm.model_executor.models.qwen3.Qwen3ForCausalLM")
COMMUNICATOR = "vllm.distributed.device_communicators.pynccl.PyNcclCommunicator"

# Calls and their arguments: positional ones by any name, keywords with "=".
CALLS: dict[str, tuple[str, ...]] = {
    # training: openrlhf/trainer/ray/vllm_engine.py
    "vllm.AsyncEngineArgs": (
        "model=", "enforce_eager=", "worker_extension_cls=", "tensor_parallel_size=", "seed=",
        "distributed_executor_backend=", "max_model_len=", "enable_prefix_caching=", "dtype=", "trust_remote_code=",
        "gpu_memory_utilization=", "enable_sleep_mode=", "limit_mm_per_prompt=", "logprobs_mode=", "max_logprobs=",
        "scheduling_policy=",
        # needed without a GPU
        "kv_cache_memory_bytes=", "enable_chunked_prefill=", "max_num_batched_tokens=", "disable_log_stats=",
    ),
    f"{ENGINE}.from_engine_args": ("engine_args",),
    f"{ENGINE}.generate": ("self", "prompt", "sampling_params", "request_id=", "priority="),
    f"{ENGINE}.abort": ("self", "request_id"),  # openrlhf_mel/upstream/engine.py
    f"{ENGINE}.is_sleeping": ("self",),
    f"{ENGINE}.collective_rpc": ("self", "method", "args="),
    f"{ENGINE}.reset_prefix_cache": ("self",),
    f"{ENGINE}.pause_generation": ("self", "mode="),
    f"{ENGINE}.resume_generation": ("self",),
    f"{ENGINE}.sleep": ("self", "level="),
    f"{ENGINE}.wake_up": ("self", "tags="),
    "vllm.v1.engine.output_processor.OutputProcessor.get_num_unfinished_requests": ("self",),
    "vllm.inputs.TokensPrompt": ("prompt_token_ids=", "multi_modal_data="),
    "vllm.utils.random_uuid": (),
    # openrlhf_mel/upstream/ray_engine.py, openrlhf/trainer/ppo_utils/samples_generator.py; `n` to `output_kind`: eval/
    "vllm.SamplingParams": (
        "temperature=", "top_p=", "top_k=", "max_tokens=", "min_tokens=", "skip_special_tokens=", "logprobs=",
        "n=", "seed=", "output_kind=", "extra_args=",
    ),
    # weights: openrlhf/utils/distributed_util.py, openrlhf/trainer/ray/{ppo_actor,vllm_worker_wrap}.py
    "vllm.distributed.utils.StatelessProcessGroup.create": ("host=", "port=", "rank=", "world_size="),
    COMMUNICATOR: ("group", "device="),
    f"{COMMUNICATOR}.broadcast": ("self", "tensor", "src=", "stream="),
    **{f"{model}.load_weights": ("self", "weights=") for model in MODELS},
    # weights without a GPU
    "vllm.distributed.utils.stateless_init_torch_distributed_process_group": (
        "host", "port", "rank", "world_size", "backend",
    ),
    "vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm": ("layer", "remove_weight"),
    # evaluation: eval/backends/vllm_child.py
    "vllm.EngineArgs": (
        "model=", "tensor_parallel_size=", "dtype=", "gpu_memory_utilization=", "trust_remote_code=", "max_model_len=",
        "max_num_seqs=", "enable_prefix_caching=", "disable_log_stats=", "seed=",
        "kv_cache_memory_bytes=", "enable_chunked_prefill=", "max_num_batched_tokens=", "enforce_eager=",
    ),
    "vllm.LLMEngine.from_engine_args": ("engine_args",),
    "vllm.LLMEngine.add_request": ("self", "request_id", "prompt", "params"),
    "vllm.LLMEngine.step": ("self",),
    "vllm.LLMEngine.abort_request": ("self", "request_ids"),
    "vllm.v1.engine.core_client.EngineCoreClient.shutdown": ("self",),
    # slurm/lib/ask_vllm.py
    "vllm.LLM": (
        "model=", "enable_sleep_mode=", "gpu_memory_utilization=", "max_model_len=", "seed=",
        "kv_cache_memory_bytes=", "enforce_eager=",
    ),
    "vllm.LLM.generate": ("self", "prompts", "sampling_params"),
    "vllm.LLM.sleep": ("self", "level="),
    "vllm.LLM.wake_up": ("self",),
}  # fmt: skip
AWAITED = frozenset(
    f"{ENGINE}.{name}"
    for name in (
        "abort", "is_sleeping", "collective_rpc", "reset_prefix_cache", "pause_generation", "resume_generation", "sleep", "wake_up",
    )
)  # fmt: skip
# Attributes that are read or set: fields, and what a class assigns to `self`.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    ENGINE: ("output_processor",),
    "vllm.LLMEngine": ("engine_core",),
    "vllm.RequestOutput": ("request_id", "outputs", "finished"),
    "vllm.CompletionOutput": ("text", "token_ids", "logprobs", "finish_reason"),
    "vllm.logprobs.Logprob": ("logprob",),
    "vllm.SamplingParams": ("temperature", "top_p", "max_tokens", "logprobs", "extra_args"),
    **dict.fromkeys(WORKERS, ("device", "model_config", "model_runner")),
    "vllm.config.ModelConfig": ("dtype",),
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner": ("model",),
}
# Values that are passed or expected; the key is the object that lists all allowed ones.
VALUES: dict[str, tuple[str, ...]] = {
    "vllm.config.model.ModelDType": ("auto", "bfloat16", "float32"),
    "vllm.config.model.LogprobsMode": ("processed_logprobs",),
    "vllm.config.scheduler.SchedulerPolicy": ("priority",),
    "vllm.config.parallel.DistributedExecutorBackend": ("uni", "ray"),
    "vllm.v1.engine.PauseMode": ("keep",),
    "vllm.v1.engine.FINISH_REASON_STRINGS": ("stop", "length"),
    "vllm.envs.environment_variables": (
        "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_NO_USAGE_STATS", "VLLM_RAY_PER_WORKER_GPUS", "VLLM_RAY_BUNDLE_INDICES",
        "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND",
    ),
}  # fmt: skip
PRESENT = (
    "vllm.__version__",
    f"{ENGINE}.errored",  # openrlhf_mel/upstream/engine.py
    f"{ENGINE}.dead_error",
    "vllm.sampling_params.RequestOutputKind.FINAL_ONLY",
)
# openrlhf's WorkerWrap becomes a base of vLLM's worker, which refuses a base with a name that it already has.
ABSENT = tuple(
    f"{worker}.{name}"
    for worker in WORKERS
    for name in ("init_process_group", "update_weight", "update_weight_cuda_ipc")
)


def differences() -> list[str]:
    """Return the installed vLLM's differences from the tables, one line each; empty when it fits."""
    return [line for name, check in _checks() if (line := _difference(name, check))]


def _checks() -> list[tuple[str, Any]]:
    checks = [(name, functools.partial(_takes, name=name, given=given)) for name, given in CALLS.items()]
    for check, table in ((_has, ATTRIBUTES), (_lists, VALUES)):
        checks += [
            (f"{name}: {entry}", functools.partial(check, name=name, entry=entry))
            for name, entries in table.items()
            for entry in entries
        ]
    checks += [(name, functools.partial(find, name)) for name in PRESENT]
    return checks + [(name, functools.partial(_lacks, name=name)) for name in ABSENT]


def _difference(name: str, check: Any) -> str:
    try:
        check()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return f"{name}: {error}"
    return ""


def find(name: str) -> Any:
    """Return the object of a dotted name, importing modules as needed."""
    parts = name.split(".")
    target: Any = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        if not hasattr(target, part) and inspect.ismodule(target):
            try:
                importlib.import_module(".".join(parts[:index]))
            except ModuleNotFoundError:
                raise AttributeError(f"not there, looked in {target.__name__}") from None
        target = getattr(target, part)
    return target


def arguments(name: str) -> dict[str, str]:
    """Return the arguments of a function, class or typed dictionary: name -> `repr` of the default, "" for none."""
    target = find(name)
    if hasattr(target, "__total__"):
        return dict.fromkeys(target.__annotations__, "")
    parameters = inspect.signature(target).parameters.values()
    return {p.name: "" if p.default is p.empty else repr(p.default) for p in parameters}


def _takes(name: str, given: tuple[str, ...]) -> None:
    target, keywords = find(name), [key.rstrip("=") for key in given if key.endswith("=")]
    if hasattr(target, "__total__"):
        if unknown := set(keywords) - arguments(name).keys():
            raise TypeError(f"has no {', '.join(sorted(unknown))}")
        return
    inspect.signature(target).bind(*given[: len(given) - len(keywords)], **dict.fromkeys(keywords))
    if inspect.iscoroutinefunction(target) != (name in AWAITED):
        raise TypeError("to be awaited, or no longer to be")


def _has(name: str, entry: str) -> None:
    """Check that a class has a member, a field, or a `self` attribute of that name."""
    target = find(name)
    fields = getattr(target, "__struct_fields__", ())
    if not (hasattr(target, entry) or entry in fields or any(entry in _sets(base) for base in target.__mro__)):
        raise AttributeError("not there")


@functools.cache
def _sets(owner: type) -> set[str]:
    if owner.__module__.partition(".")[0] != "vllm":
        return set()
    assigned = set(inspect.get_annotations(owner))
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner)))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            assigned.add(node.attr)
    return assigned


def _lists(name: str, entry: str) -> None:
    target = find(name)
    if entry not in (known := get_args(target) or tuple(target)):
        raise ValueError(f"not there, found {', '.join(known)[:200]}")


def _lacks(name: str) -> None:
    try:
        find(name)
    except AttributeError:
        return
    raise ValueError("is there, where upstream's worker extension brings it")


def without(name: str) -> list[str]:
    """Return the differences with a method, a function or a class removed."""
    owner, _, attribute = name.rpartition(".")
    target = find(owner)
    with pytest.MonkeyPatch.context() as real:  # the real vLLM without one name, inside this block
        if attribute in (lazy := vars(target).get("MODULE_ATTRS", {})):  # what the module vllm imports lazily
            real.delitem(lazy, attribute)
        for holder in getattr(target, "__mro__", (target,)):
            if attribute in vars(holder):
                real.delattr(holder, attribute)
        return differences()


def unfit() -> list[str]:
    """Return the differences if the tables listed arguments, attributes and values that vLLM lacks."""
    with pytest.MonkeyPatch.context() as tables:
        for name, given in CALLS.items():
            tables.setitem(CALLS, name, (*given, "no_such="))
        for table in (ATTRIBUTES, VALUES):
            for name in table:
                tables.setitem(table, name, ("no_such",))
        return differences()


if __name__ == "__main__":
    vllm = importlib.import_module("vllm")
    report = {
        "version": vllm.__version__,
        "file": vllm.__file__,
        "differences": differences(),
        "without": {name: without(name) for name in CALLS},
        "unfit": unfit(),
        "arguments": {name: arguments(name) for name in sys.argv[1:]},
    }
    print("\n" + json.dumps(report))
