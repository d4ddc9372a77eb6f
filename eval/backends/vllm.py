"""vLLM: one engine per GPU group, or several on a CPU, each in a process of its own, all fed from one queue."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from eval.backends.model_folder import (
    Encoder,
    context_of_engine,
    fingerprint,
    locate,
    read_encoder,
    warn_of_endless_turns,
)
from eval.backends.number_format import AUTO, number_format
from eval.backends.vllm_child import ROWS, Done, Job
from eval.backends.vllm_process import Place, Process, end
from eval.messages import LENGTH, STOP, BackendError, Request, Response, Room, Sampling
from openrlhf_mel.cpu import vllm_arguments
from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import vllm_build
from openrlhf_mel.settings.vllm_build import Build

ENGINE = "eval.backends.vllm_child:VLLMEngine"
_AHEAD = 32  # jobs queued in a worker, so that its engine never waits


class VLLMBackend:
    """A model in vLLM. The engines start at the first request, with a context as long as the requests need.

    The KV cache of a model's whole context (131,072 tokens of Qwen2.5-32B) may not fit on a GPU.

    Each request has its own seed. Prefix caching is off. Sampling settings of the model's generation_config.json
    (`top_k`, penalties) are ignored.
    """

    def __init__(
        self,
        model: str,
        *,
        chat: bool,
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        dtype: str = AUTO,
        gpu_memory: float = 0.9,
        trust_remote_code: bool = False,
        engine: str = ENGINE,
    ) -> None:
        """
        Args:
            model: a folder, or a name on the hub.
            chat: the prompt is the user's turn of the tokenizer's chat template; otherwise it is taken as it is.
            tensor_parallel: GPUs of an engine; 1 on a CPU.
            data_parallel: engines. The GPUs are taken from CUDA_VISIBLE_DEVICES, in its order.
            dtype: see `number_format`.
            gpu_memory: share of a GPU's memory that its engine may take.
            engine: `module:name` of the engine's class, see `vllm_child.JobEngine`.

        Raises:
            UserError: vLLM (in the version of requirements.txt) or the model is missing, there are too few GPUs, or the
                model has code of its own that was not allowed.
        """
        self._build = _build()
        self._model_name, self._chat, self._trust, self._engine = model, chat, trust_remote_code, engine
        self._tensor_parallel = tensor_parallel
        self._dtype = number_format(dtype, cpu=self._build.cpu)
        self._folder = locate(model, trust_remote_code)
        if chat:
            warn_of_endless_turns(model, self._folder)
        self._places = _places(self._build, tensor_parallel, data_parallel)
        self._options = {
            "model": str(self._folder),
            "tensor_parallel": tensor_parallel,
            "dtype": self._dtype,
            "gpu_memory": gpu_memory,
            "trust_remote_code": trust_remote_code,
        }
        self._workers: list[Process] = []
        self._context = 0  # of the running engines
        self._encoder: Encoder | None = None
        self._keys = itertools.count()

    def identity(self) -> dict[str, Any]:
        """As in `HFBackend`, plus vLLM's distribution and the GPUs per engine, which change the order of sums."""
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        return {
            "backend": "vllm",
            "chat": self._chat,
            **fingerprint(self._folder),
            "dtype": self._dtype,
            "tensor_parallel": self._tensor_parallel,
            "versions": {self._build.distribution: self._build.version, **versions},
        }

    def thinking_end(self) -> str | None:
        """See `messages.PromptingBackend`."""
        return self._read_encoder().thinking_end() if self._chat else None

    def room(self, requests: Sequence[Request]) -> Room | None:
        """See `messages.PromptingBackend`."""
        return self._read_encoder().room(requests)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Generator[Response, None, None]:
        """See `messages.Backend`. Each engine gets its next request when it has room, so all are busy to the end."""
        if not requests:
            return
        prompts = self._read_encoder().encode(requests, sampling.max_tokens)
        needed = max(map(len, prompts)) + sampling.max_tokens
        if not self._workers or needed > self._context:
            self.close()
            self._start(needed)
        waiting = zip(requests, prompts, strict=True)
        pending: dict[int, tuple[Process, Request, int]] = {}
        try:
            self._feed(waiting, pending, sampling)
            while pending:
                dead, received = self._receive()
                finished = [(done, *pending.pop(done.key)) for done in received if done.key in pending]
                for _, worker, *_ in finished:
                    worker.jobs -= 1
                if not dead:
                    self._feed(waiting, pending, sampling)
                for done, _, request, length in finished:
                    yield Response(request, done.text, LENGTH if done.cut else STOP, length, done.tokens)
                if dead and pending:
                    raise dead[0].error()
        except BackendError:
            self.close()
            raise
        finally:
            if pending:  # their remaining responses are unknown to the next call, and ignored
                for worker in self._workers:
                    worker.abort()

    def close(self) -> None:
        """End all processes."""
        workers, self._workers = self._workers, []
        end(workers)

    def _read_encoder(self) -> Encoder:
        if self._encoder is None:
            context = context_of_engine(self._folder)
            self._encoder = read_encoder(self._model_name, self._folder, self._chat, self._trust, context)
        return self._encoder

    def _start(self, context: int) -> None:
        """Engines that hold sequences of `context` tokens."""
        more = vllm_arguments.engine_arguments(context, len(self._places)) if self._build.cpu else {}
        try:
            for place in self._places:
                self._workers.append(Process(place, self._engine, self._options | {"context": context, "more": more}))
            while not all([worker.ready() for worker in self._workers]):  # each is checked: a dead one raises at once
                wait([worker.connection for worker in self._workers], timeout=1)
        except BaseException:  # an interrupt as well: the others would continue loading
            self.close()
            raise
        self._context = context

    def _feed(
        self,
        waiting: Iterator[tuple[Request, list[int]]],
        pending: dict[int, tuple[Process, Request, int]],
        sampling: Sampling,
    ) -> None:
        while (worker := min(self._workers, key=lambda worker: worker.jobs)).jobs < ROWS + _AHEAD:
            request, prompt = next(waiting, (None, []))
            if request is None:
                return
            key = next(self._keys)
            greedy = request.greedy or sampling.temperature == 0
            how = (0.0, 1.0) if greedy else (sampling.temperature, sampling.top_p)
            pending[key] = worker, request, len(prompt)
            worker.send(Job(key, prompt, *how, sampling.max_tokens, None if greedy else request.seed))
            worker.jobs += 1

    def _receive(self) -> tuple[list[Process], list[Done]]:
        """Wait, then return the dead workers and the messages from all."""
        while True:
            wait([worker.connection for worker in self._workers], timeout=1)
            dead = [
                worker for worker in self._workers if not worker.alive()
            ]  # checked first: a dead worker sends nothing afterwards
            received = [done for worker in self._workers for done in worker.receive()]
            if dead or received:
                return dead, received


def _build() -> Build:
    """The installed vLLM. Raises UserError when there is none, or not in the version of requirements.txt."""
    build = vllm_build.installed()
    if build is None:
        raise UserError(
            "--backend vllm (the default): vLLM is not installed; install it by requirements.txt (GPU) or `make setup` (CPU), "
            "or pass --backend hf or openai"
        )
    vllm_build.check(build)
    return build


def _places(build: Build, tensor_parallel: int, data_parallel: int) -> list[Place]:
    """The place of each engine. Raises UserError for what this machine or this build of vLLM cannot do."""
    if build.cpu:
        if tensor_parallel != 1:
            raise UserError(
                f"--tensor-parallel {tensor_parallel}: the vLLM that is installed ({build}) is built for CPUs, expected 1; "
                f"--data-parallel {tensor_parallel} makes as many engines"
            )
        return [
            Place("the CPU", {"CUDA_VISIBLE_DEVICES": ""} | vllm_arguments.environment(data_parallel))
        ] * data_parallel
    groups = _gpu_groups(tensor_parallel, data_parallel)
    return [Place(f"GPU {gpus}", {"CUDA_VISIBLE_DEVICES": gpus}) for gpus in groups]


def _gpu_groups(tensor_parallel: int, data_parallel: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each engine, from the current value. Raises UserError when there are too few GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch

        gpus = [str(i) for i in range(torch.cuda.device_count())]
    else:
        gpus = [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
    needed = tensor_parallel * data_parallel
    if not 1 <= needed <= len(gpus):
        raise UserError(
            f"--tensor-parallel {tensor_parallel} --data-parallel {data_parallel}: found {len(gpus)} GPUs, expected {needed}; "
            "see CUDA_VISIBLE_DEVICES, or use --backend hf or openai"
        )
    return [",".join(gpus[i : i + tensor_parallel]) for i in range(0, needed, tensor_parallel)]
