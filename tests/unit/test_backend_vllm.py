"""The vLLM backend with a stand-in for the engine in its real processes. For vLLM's names see contract/test_vllm.py."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from eval import backends
from eval.backends import vllm as vllm_backend
from eval.backends.vllm import VLLMBackend
from eval.backends.vllm_worker import Done, Job
from eval.records import BackendError, Request, Response, Sampling
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(120)

REPO = Path(__file__).parents[2]
MODEL = REPO / "data" / "toy" / "model"
SAMPLING = Sampling(temperature=0.6, top_p=0.9, max_tokens=50)
CONTEXT = 4096  # of the model, by its config.json
DIE, RAISE, STAY, ORPHAN = 1001, 1002, 1003, 1004  # seeds of jobs at which the stand-in does so


class StandIn:
    """Finishes its first two jobs at each step. A response says what was asked and which GPUs the process sees."""

    def __init__(self, **options):
        print(f"options {json.dumps(options)}", flush=True)
        if not os.environ.get("CUDA_VISIBLE_DEVICES"):
            raise RuntimeError("no GPU for the engine")
        if os.environ["CUDA_VISIBLE_DEVICES"] == "never":
            time.sleep(600)
        self._context = options["context"]
        self._jobs: list[Job] = []
        self._aborted = 0

    def add(self, job):
        if job.seed == RAISE:
            raise ValueError("a job that it does not like\x1b[31m")
        if job.seed == ORPHAN:  # a child that outlives its parent, with everything that it could inherit
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
        if len(job.prompt) + job.max_tokens > self._context:
            raise ValueError("too long for the engine")
        self._jobs.append(job)

    def step(self):
        time.sleep(0.002)
        if self._jobs[0].seed in (DIE, ORPHAN):
            time.sleep(1.5)  # until what was finished before has gone out, here and in other processes
            os.kill(os.getpid(), signal.SIGKILL)
        done = [job for job in self._jobs[:2] if job.seed not in (STAY, DIE)]
        self._jobs = [job for job in self._jobs if job not in done]
        return [Done(job.key, self._text(job), job.seed == 7, len(job.prompt) + 1) for job in done]

    def _text(self, job):
        how = [job.temperature, job.top_p, job.max_tokens, job.seed]
        return json.dumps([len(job.prompt), how, os.environ["CUDA_VISIBLE_DEVICES"], self._aborted, self._context])

    def abort(self, keys):
        self._aborted += len(keys)
        self._jobs = []

    def close(self):
        print("closed", flush=True)


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(vllm_backend, "_versions", lambda: {"vllm": "0.29.0", "torch": "1", "transformers": "2"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6a,7")
    monkeypatch.setenv("MEL_TEST", uuid.uuid4().hex)  # found in the environment of all that is started
    made = []

    def build(**options) -> VLLMBackend:
        options = {"model": str(MODEL), "chat": False, "engine": "test_backend_vllm:StandIn"} | options
        made.append(backends.make("vllm", **options))
        return made[-1]

    yield build
    for backend in made:
        backend.close()
        backend.close()


def requests(number: int) -> list[Request]:
    return [Request("toy", f"q{i}", 0, i % 3 == 0, i, "Compute 1+1." + "!" * (i % 4)) for i in range(number)]


def children_left(wanted: int) -> bool:
    """Whether so many processes are left that the test started, or these did; those that are ending may take a while to."""
    mark = f"MEL_TEST={os.environ['MEL_TEST']}\0".encode()
    for _ in range(200):
        count = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                count += mark in path.read_bytes()
        if count == wanted:
            return True
        time.sleep(0.1)
    return False


def test_every_request_once_from_every_engine(make):
    backend = make(tensor_parallel=2, data_parallel=2)
    asked = requests(900)
    responses = list(backend.generate(asked, SAMPLING))
    assert sorted(r.request.seed for r in responses) == list(range(900))
    gpus = set()
    for r in responses:
        length, how, gpu, *_ = json.loads(r.text)
        gpus.add(gpu)
        assert how == ([0.0, 1.0, 50, None] if r.request.greedy else [0.6, 0.9, 50, r.request.seed])
        assert r.prompt_tokens == length and r.tokens == length + 1
        assert r.finish_reason == ("length" if r.request.seed == 7 else "stop")
    assert gpus == {"4,5", "GPU-6a,7"}
    assert children_left(2)  # they stay for the next call
    assert len(list(backend.generate(asked[:5], SAMPLING))) == 5
    backend.close()
    assert children_left(0)


def test_responses_come_as_they_are_finished(make):
    stay = Request("toy", "stays", 0, False, STAY, "Compute 2+2.")
    responses = make().generate([stay, *requests(20)], SAMPLING)
    assert len([next(responses) for _ in range(20)]) == 20
    responses.close()


def test_prompts_as_tokens(make):
    [plain] = make().generate([Request("toy", "q", 0, True, 0, "Compute 1+1.")], SAMPLING)
    [chat] = make(chat=True).generate([Request("toy", "q", 0, True, 0, "Compute 1+1.")], SAMPLING)
    assert chat.prompt_tokens == plain.prompt_tokens + 2  # <|user|> and <|assistant|>


def test_an_iterator_closed_early_leaves_nothing(make):
    backend = make()
    responses = backend.generate(requests(300), SAMPLING)
    next(responses)
    responses.close()
    again = list(backend.generate(requests(4), SAMPLING))
    assert [r.request.question for r in again] == ["q0", "q1", "q2", "q3"]
    assert json.loads(again[0].text)[3] > 100  # what the engine was told to forget


def test_a_worker_that_dies(make):
    backend = make(data_parallel=2)
    asked = [*requests(10), Request("toy", "deadly", 0, False, DIE, "Compute 2+2.")]
    came: list[Response] = []
    with pytest.raises(BackendError, match=r"GPU (4|5) ended \(exit code -9\).*\noptions") as error:
        for response in backend.generate(asked, SAMPLING):
            came.append(response)
    assert "the same command goes on" in str(error.value)
    assert sorted(r.request.seed for r in came) == list(range(10))
    assert children_left(0)
    assert len(list(backend.generate(asked[:3], SAMPLING))) == 3  # with new processes


def test_a_worker_that_dies_takes_its_children_along(make):
    asked = [
        Request("toy", "q", 0, False, ORPHAN, "Compute 2+2."),
        Request("toy", "stays", 0, False, STAY, "Compute 2+2."),
    ]
    responses = make().generate(asked, SAMPLING)
    with pytest.raises(BackendError, match="exit code -9"):
        next(responses)
    assert children_left(0)


def test_an_engine_that_raises(make):
    asked = [*requests(4), Request("toy", "bad", 0, False, RAISE, "Compute 2+2.")]
    with pytest.raises(BackendError, match=r"exit code 1.*") as error:
        list(make().generate(asked, SAMPLING))
    assert "ValueError: a job that it does not like" in str(error.value) and "\x1b" not in str(error.value)
    assert children_left(0)


def test_an_engine_that_does_not_start(make, monkeypatch):
    backend = make(engine="test_backend_vllm:Absent")
    with pytest.raises(BackendError, match="has no attribute 'Absent'"):
        next(backend.generate(requests(1), SAMPLING))
    assert children_left(0)


def test_interrupted_while_it_loads(make, monkeypatch):
    """Engines that load are ended at once, not waited for."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "never")
    backend = make()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(vllm_backend._Worker, "alive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(backend.generate(requests(1), SAMPLING))
    assert children_left(0)


def test_workers_end_when_their_owner_is_killed(monkeypatch, tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, 'tests/unit')\n"
        "import test_backend_vllm as t; from eval.backends import vllm\n"
        "vllm._versions = lambda: {}\n"
        "b = vllm.VLLMBackend(str(t.MODEL), chat=False, engine='test_backend_vllm:StandIn')\n"
        "next(b.generate(t.requests(300), t.SAMPLING))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("MEL_TEST", uuid.uuid4().hex)
    log = tmp_path / "log"
    with open(log, "wb") as output:
        process = subprocess.run([sys.executable, "-c", code], cwd=REPO, stdout=output, stderr=output, timeout=60)
    assert process.returncode == -signal.SIGKILL, log.read_text()
    assert children_left(0)


def test_engines_hold_what_is_asked_for(make):
    """The model's whole context may be more KV cache than there is room for. One that holds too little is replaced."""
    backend = make()
    (short,) = backend.generate(requests(1), SAMPLING)
    assert json.loads(short.text)[4] == short.prompt_tokens + SAMPLING.max_tokens
    responses = list(backend.generate(requests(4), SAMPLING))
    needed = max(r.prompt_tokens for r in responses) + SAMPLING.max_tokens
    assert {json.loads(r.text)[4] for r in responses} == {needed}
    (again,) = backend.generate(requests(1), SAMPLING)
    assert json.loads(again.text)[4] == needed and children_left(1)


def test_too_long_names_the_question(make):
    """Before an engine starts."""
    long = Request("toy", "the-long-one", 0, True, 0, "word " * CONTEXT)
    with pytest.raises(
        UserError, match=f"holds {CONTEXT} tokens, and the longest prompt .question the-long-one of toy"
    ):
        next(make().generate([*requests(2), long], SAMPLING))
    assert children_left(0)


def test_nothing_asked_starts_nothing(make):
    assert list(make().generate([], SAMPLING)) == []
    assert children_left(0)


def test_identity(make):
    identity = make(tensor_parallel=2).identity()
    assert identity == make(tensor_parallel=2, data_parallel=2).identity()
    assert identity["tensor_parallel"] == 2 and identity["dtype"] == "bfloat16"
    assert identity["versions"] == {"vllm": "0.29.0", "torch": "1", "transformers": "2"}
    assert len(identity["weights_sha256"]) == 64


def test_too_few_gpus(make, monkeypatch):
    with pytest.raises(UserError, match="--tensor-parallel 2 --data-parallel 4: found 4 GPUs, expected 8"):
        make(tensor_parallel=2, data_parallel=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="found 0 GPUs, expected 1"):
        make()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_is_not_installed():
    with pytest.raises(UserError, match=r"--backend vllm: vllm is not installed; .*requirements\.txt"):
        backends.make("vllm", model=str(MODEL), chat=False)
