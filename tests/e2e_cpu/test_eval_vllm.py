"""`eval.run --backend vllm` with vLLM's CPU build: same samples as transformers; killed; broken; as a server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from e2e_cpu import known_answers as known
from foreground import default_signals
from marked import left, mark_children

from eval import run
from openrlhf_mel.settings import vllm_build

build = vllm_build.installed()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (build and build.cpu), reason="needs vLLM's build for CPUs (`make setup`)"),
]
REPO = Path(__file__).parents[2]
TOY = REPO / "data" / "toy"
SERVER = (
    "uvicorn",
    "watchfiles",
    "model_hosting_container_standards",
    "jmespath",
    "prometheus_fastapi_instrumentator",
)  # packages it needs beyond the engine
ALL = 16 * 8  # one greedy and seven sampled responses to each of 16 questions


def command(out: Path, *flags: object) -> list[str]:
    """Return eval.run's arguments; `flags` override them."""
    model = ["--model", TOY / "model", "--data-dir", TOY, "--benchmarks", "test", "--template", TOY / "templates"]
    numbers = ["--limit", 16, "--n", 7, "--max-tokens", 64, "--seed", 42]
    return [str(flag) for flag in ("--output-dir", out, *model, *numbers, *flags)]


def samples(out: Path) -> dict[tuple, dict]:
    """Return the samples by key; check that none occurs twice."""
    found = known.rows(out, "test")
    by_key = {(row["question"], row["sample"], row["greedy"]): row for row in found}
    assert len(by_key) == len(found)
    return by_key


@pytest.fixture(scope="module")
def transformers(tmp_path_factory) -> Path:
    """An uninterrupted evaluation by transformers' backend."""
    out = tmp_path_factory.mktemp("transformers") / "out"
    assert run.main(command(out, "--backend", "hf")) == 0
    return out


@pytest.fixture
def marked(monkeypatch):
    """Check that all processes the test started are gone at its end."""
    mark_children(monkeypatch)
    yield
    assert left(0)


def test_responses_are_those_of_transformers(tmp_path, transformers, marked):
    """Greedy and sampled responses from two engines, in the default fp32."""
    out = tmp_path / "out"
    assert run.main(command(out, "--backend", "vllm", "--data-parallel", 2)) == 0
    drawn = samples(out)
    assert len(drawn) == ALL and drawn == samples(transformers)
    assert len({row["response"] for row in drawn.values()}) > ALL // 4
    model = json.loads((out / "settings.json").read_text())["model"]
    assert (model["backend"], model["dtype"]) == ("vllm", "float32")
    assert model["versions"][build.distribution] == build.version


def test_killed_and_gone_on_with(tmp_path, transformers, marked):
    """SIGKILL leaves no time to end the engine. No sample is drawn twice or differently."""
    out = tmp_path / "out"
    asked = command(out, "--backend", "vllm")
    for _ in range(3):  # on a busy machine the other process may finish before it is killed
        shutil.rmtree(out, ignore_errors=True)
        process = subprocess.Popen([sys.executable, "-m", "eval.run", *asked], cwd=REPO)
        while process.poll() is None and not known.rows(out, "test"):
            time.sleep(0.002)
        process.kill()
        process.wait()
        before = (out / "samples" / "test.jsonl").read_bytes()
        before = before[: before.rfind(b"\n") + 1]
        if before.count(b"\n") < ALL:
            break
    assert process.returncode == -signal.SIGKILL and 0 < before.count(b"\n") < ALL
    assert left(0)
    assert run.main(asked) == 0
    assert samples(out) == samples(transformers)
    assert (out / "samples" / "test.jsonl").read_bytes().startswith(before)


@pytest.fixture
def broken(tmp_path):
    """Run the command with a broken model or package; return its stderr."""

    def check(*flags: object, path: Path | None = None) -> str:
        environment = os.environ | ({"PYTHONPATH": os.pathsep.join([str(path), *sys.path])} if path else {})
        argv = [sys.executable, "-m", "eval.run", *command(tmp_path / "out", "--backend", "vllm", *flags)]
        started = time.monotonic()
        ended = subprocess.run(argv, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)
        print(f"{time.monotonic() - started:.1f} s, {ended.stderr}")
        assert ended.returncode == 1
        return ended.stderr

    return check


def test_a_package_that_is_missing(tmp_path, broken, marked):
    (tmp_path / "lacks").mkdir()
    missing = "No module named 'msgspec'"
    (tmp_path / "lacks" / "msgspec.py").write_text(f"raise ModuleNotFoundError({missing!r}, name='msgspec')")
    said = broken(path=tmp_path / "lacks")
    assert f"error: the vLLM process on the CPU ended (exit code 1): ModuleNotFoundError: {missing}; samples" in said


def test_a_model_that_vllm_refuses(tmp_path, broken, marked):
    folder = Path(shutil.copytree(TOY / "model", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "no_such"}))
    said = broken("--model", folder)
    [first] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert first.startswith("error: the vLLM process on the CPU ended (exit code 1): ")
    assert "Unsupported activation: no_such" in first


@pytest.fixture
def served(tmp_path, marked):
    """Serve the toy model as `vllm serve` does (that command requires a distribution named vllm); yield the address."""
    for package in SERVER:
        pytest.importorskip(package, reason=f"vLLM's server needs {', '.join(SERVER)}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--model", TOY / "model", "--host", "127.0.0.1", "--port", port, "--generation-config", "vllm"]
    arguments += ["--no-enable-prefix-caching", "--dtype", "float32", "--max-model-len", 512, "--enforce-eager"]
    arguments += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", 8192, "--kv-cache-memory-bytes", 2**28]
    environment = os.environ | {
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with open(tmp_path / "server.log", "w+") as log:
        argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *map(str, arguments)]
        server = subprocess.Popen(
            argv, stdout=log, stderr=log, env=environment, start_new_session=True, preexec_fn=default_signals
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 300
            while not _answers(f"{url}/health"):
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
            yield f"{url}/v1"
        finally:
            with suppress(ProcessLookupError):  # it has already ended
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_server_gives_the_same_responses(tmp_path, transformers, served):
    out = tmp_path / "out"
    assert run.main(command(out, "--backend", "openai", "--base-url", served, "--model", TOY / "model")) == 0
    texts = {key: row["response"] for key, row in samples(out).items()}
    assert texts == {key: row["response"] for key, row in samples(transformers).items()}
