"""vLLM: one engine a GPU group, each in a process of its own, all fed from one queue."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from eval.backends.model_folder import Encoder, context_of, fingerprint, first_line, locate, warn_of_endless_turns
from eval.backends.vllm_worker import ROWS, Done, Job
from eval.records import LENGTH, STOP, BackendError, Request, Response, Sampling
from openrlhf_mel.errors import UserError

ENGINE = "eval.backends.vllm_worker:VLLMEngine"
_AHEAD = 32  # jobs that wait in a worker, so that its engine never does
_BOOT = "import sys; from eval.backends.vllm_worker import run; run(int(sys.argv[1]), sys.argv[2])"
_PATIENCE_S = 20.0  # for an engine to end by itself
_LAST_WORDS = 4000  # bytes of a dead worker's output


class VLLMBackend:
    """A model in vLLM. The engines start when the first response is asked for, and hold what that takes: a model's whole
    context (131,072 tokens of Qwen2.5-32B) may be more KV cache than a GPU has left.

    Each request has its own seed. Prefix caching is off. What the model's generation_config.json says of sampling
    (`top_k`, penalties) is not followed.
    """

    def __init__(
        self,
        model: str,
        *,
        chat: bool,
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        dtype: str = "auto",
        gpu_memory: float = 0.9,
        trust_remote_code: bool = False,
        engine: str = ENGINE,
    ) -> None:
        """
        Args:
            model: a folder, or a name on the hub.
            chat: the prompt is the user's turn of the tokenizer's chat template; otherwise it is taken as it is.
            tensor_parallel: GPUs of an engine.
            data_parallel: engines. The GPUs are taken from CUDA_VISIBLE_DEVICES, in its order.
            dtype: bfloat16 (`auto`), float16 or float32.
            gpu_memory: share of a GPU's memory that its engine may take.
            engine: `module:name` of the engine's class, see `vllm_worker.Engine`.

        Raises:
            UserError: vLLM or the model is not there, there are too few GPUs, or the model brings code that nobody asked for.
        """
        self._versions = _versions()
        self._model_name, self._chat, self._trust, self._engine = model, chat, trust_remote_code, engine
        self._tensor_parallel = tensor_parallel
        self._dtype = "bfloat16" if dtype == "auto" else dtype
        self._folder = locate(model, trust_remote_code)
        if chat:
            warn_of_endless_turns(model, self._folder)
        self._gpus = _gpu_groups(tensor_parallel, data_parallel)
        self._options = {
            "model": str(self._folder),
            "tensor_parallel": tensor_parallel,
            "dtype": self._dtype,
            "gpu_memory": gpu_memory,
            "trust_remote_code": trust_remote_code,
        }
        self._workers: list[_Worker] = []
        self._context = 0  # of the engines that run
        self._encoder: Encoder | None = None
        self._keys = itertools.count()

    def identity(self) -> dict[str, Any]:
        """As of `HFBackend`, with vLLM's version and the GPUs of an engine, which change the order of sums."""
        return {
            "backend": "vllm",
            "chat": self._chat,
            **fingerprint(self._folder),
            "dtype": self._dtype,
            "tensor_parallel": self._tensor_parallel,
            "versions": self._versions,
        }

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Response]:
        """See `records.Backend`. Each engine is given the next request when it has room, so all are busy to the end."""
        if not requests:
            return
        self._encoder = self._encoder or self._read_tokenizer()
        prompts = self._encoder.encode(requests, sampling.max_tokens)
        needed = max(map(len, prompts)) + sampling.max_tokens
        if not self._workers or needed > self._context:
            self.close()
            self._start(needed)
        waiting = zip(requests, prompts, strict=True)
        pending: dict[int, tuple[_Worker, Request, int]] = {}
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
            if pending:  # what still comes of them is not known any more, and passed over
                for worker in self._workers:
                    worker.abort()

    def close(self) -> None:
        """End all processes."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.send(None)
        for worker in workers:
            worker.end()

    def _read_tokenizer(self) -> Encoder:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=self._trust)
        except Exception as error:  # a damaged file shows itself in many ways
            raise BackendError(f"--model {self._model_name}: no tokenizer: {first_line(error)}") from error
        return Encoder(tokenizer, self._chat, context_of(self._folder))

    def _start(self, context: int) -> None:
        """Engines that hold sequences of `context` tokens."""
        try:
            for gpus in self._gpus:
                self._workers.append(_Worker(gpus, self._engine, self._options | {"context": context}))
            for worker in self._workers:
                worker.wait_until_ready()
        except BaseException:  # an interrupt as well: the others would go on loading
            self.close()
            raise
        self._context = context

    def _feed(
        self,
        waiting: Iterator[tuple[Request, list[int]]],
        pending: dict[int, tuple[_Worker, Request, int]],
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

    def _receive(self) -> tuple[list[_Worker], list[Done]]:
        """Workers that are dead, and what has come from all, waiting for the one or the other."""
        while True:
            wait([worker.connection for worker in self._workers], timeout=1)
            dead = [worker for worker in self._workers if not worker.alive()]  # first: nothing can come after that
            received = [done for worker in self._workers for done in worker.receive()]
            if dead or received:
                return dead, received


class _Worker:
    """A process with an engine, and the connection to it."""

    def __init__(self, gpus: str, engine: str, options: dict[str, Any]) -> None:
        self.jobs = 0
        self._gpus, self._ready = gpus, False
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (`end` closes it)
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        environment = os.environ | {
            "CUDA_VISIBLE_DEVICES": gpus,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_NO_USAGE_STATS": "1",
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), engine],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its children end with it, and the terminal's Ctrl-C is the owner's to handle
            )
        self.send(options)

    def send(self, message: Any) -> None:
        """Nothing is said where the process is dead: `alive` says it."""
        with suppress(OSError):
            self.connection.send(message)

    def wait_until_ready(self) -> None:
        """Until the engine takes jobs. Raises BackendError when the process dies before."""
        while not self.connection.poll(1):
            if not self.alive():
                raise self.error()
        try:
            self.connection.recv()
        except (EOFError, OSError):
            raise self.error() from None
        self._ready = True

    def receive(self) -> list[Done]:
        """All that has come."""
        received: list[Done] = []
        with suppress(EOFError, OSError):
            while self.connection.poll():
                received += self.connection.recv()
        return received

    def alive(self) -> bool:
        """The process runs. When it does not, its children are ended as well."""
        if self._process.poll() is None:
            return True
        self._kill()
        return False

    def abort(self) -> None:
        """Have all jobs forgotten."""
        self.jobs = 0
        self.send("abort")

    def end(self) -> None:
        """End the process and its children, by force where it takes long."""
        if self._ready:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
        self._kill()
        self._process.wait()
        self.connection.close()
        self._output.close()

    def error(self) -> BackendError:
        """What is to be said of the process, which is dead or about to be."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - _LAST_WORDS))
        words = self._output.read().decode("utf-8", "replace").strip().splitlines()[-12:]
        said = "\n".join("".join(c if c.isprintable() else " " for c in line[:300]) for line in words)
        return BackendError(
            f"the vLLM process on GPU {self._gpus} ended (exit code {self._process.returncode}). What has come is kept: the "
            f"same command goes on where this one stopped. Its last words:\n{said or 'none'}"
        )

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # the group is empty
            os.killpg(self._process.pid, signal.SIGKILL)


def _versions() -> dict[str, str]:
    try:
        return {name: importlib.metadata.version(name) for name in ("vllm", "torch", "transformers")}
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"--backend vllm: {error.name} is not installed; expected what requirements.txt lists, or --backend hf or openai"
        ) from None


def _gpu_groups(tensor_parallel: int, data_parallel: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each engine, out of the current one. Raises UserError when there are too few GPUs."""
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
