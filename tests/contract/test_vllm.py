"""vLLM, which is not installed here: its names, as used by us and by OpenRLHF, against an extract of its wheel's source.

`vllm_uses.yaml` says what is used, `vllm_names.json` what vLLM has of it, and `tools/vllm_names.py` makes the latter.
"""

import ast
import dataclasses
import importlib.metadata
import importlib.util
import inspect
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from openrlhf_mel.cpu import standins

pytestmark = pytest.mark.timeout(120)

REPO = Path(__file__).parents[2]
EXTRACT = Path(__file__).with_name("vllm_names.json")
SCRIPT = REPO / "tools" / "vllm_names.py"
OPENRLHF = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0])

spec = importlib.util.spec_from_file_location("vllm_names", SCRIPT)
vllm_names = sys.modules["vllm_names"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vllm_names)

COMMITTED = json.loads(EXTRACT.read_text(encoding="utf-8"))
NAMES = COMMITTED["names"]
USERS = sorted({line.user for line in vllm_names.uses()})

# What an expression in a user's source is: an object of this class, or of one of these.
COMMUNICATOR = "vllm.distributed.device_communicators.pynccl.PyNcclCommunicator"
OBJECTS = {
    "eval/backends/vllm_worker.py": {
        "self._params": "vllm.SamplingParams",
        "{'prompt_token_ids': job.prompt}": "vllm.inputs.TokensPrompt",
        "self._engine": "vllm.LLMEngine",
        "self._engine.engine_core": "vllm.v1.engine.core_client.EngineCoreClient",
        "output": "vllm.RequestOutput",
        "response": "vllm.CompletionOutput",
    },
    "openrlhf_mel/upstream/samples.py": {"output": "vllm.RequestOutput", "one": "vllm.CompletionOutput"},
    "openrlhf/utils/agent.py": {
        "sampling_params": "vllm.SamplingParams",
        "effective_params": "vllm.SamplingParams",
        "request_output": "vllm.RequestOutput",
        "request_output.outputs[0]": "vllm.CompletionOutput",
        "generation_output": "vllm.CompletionOutput",
        "logprob[action_tokens[i]]": "vllm.logprobs.Logprob",
        "token_logprob": "vllm.logprobs.Logprob",
    },
    "openrlhf/trainer/ray/ppo_actor.py": {"self._model_update_group": COMMUNICATOR},
    "openrlhf/trainer/ray/vllm_engine.py": {
        "self.llm": "vllm.AsyncLLMEngine",
        "self.llm.output_processor": "vllm.v1.engine.output_processor.OutputProcessor",
        "prompt": "vllm.inputs.TokensPrompt",
    },
    "openrlhf/trainer/ray/vllm_worker_wrap.py": {
        "self": "vllm.v1.worker.gpu_worker.Worker",
        "self.model_config": "vllm.config.ModelConfig",
        "self.model_runner": "vllm.v1.worker.gpu_model_runner.GPUModelRunner "
        "vllm.v1.worker.gpu.model_runner.GPUModelRunner",
        "self.model_runner.model": "vllm.model_executor.models.qwen2.Qwen2ForCausalLM "
        "vllm.model_executor.models.qwen3.Qwen3ForCausalLM",
        "self._model_update_group": COMMUNICATOR,
    },
    "openrlhf_mel/cpu/engine.py": dict.fromkeys(("s", "first", "r.sampling"), "vllm.SamplingParams"),
}


@cache
def tree_of(user):
    path = OPENRLHF.parent / user if user.startswith("openrlhf/") else REPO / user
    return ast.parse(path.read_text(encoding="utf-8"))


def strings(tree):
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def imports(tree):
    """vLLM's names by what a file calls them."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or "vllm": a.name if a.asname else "vllm" for a in node.names if is_vllm(a.name)}
        elif isinstance(node, ast.ImportFrom) and not node.level and is_vllm(node.module):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def is_vllm(module):
    return module.split(".")[0] == "vllm"


class Finder(ast.NodeVisitor):
    """The lines of the table that a user's source calls for. Values are left out."""

    def __init__(self, user):
        tree = tree_of(user)
        self._objects, self._imports = OBJECTS.get(user, {}), imports(tree)
        # what a class that is mixed into vLLM's sets itself is not vLLM's
        stored = {ast.unparse(n) for n in ast.walk(tree) if isinstance(getattr(n, "ctx", None), ast.Store)}
        self._own = {text for text in stored if text.startswith("self.")}
        self.lines = {f"vllm.envs.{text}" for text in strings(tree) if re.fullmatch("VLLM_[A-Z0-9_]+", text)}
        self.visit(tree)
        # of `vllm.LLMEngine.from_engine_args(_)`, the class alone says nothing more
        self.lines -= {line for line in self.lines if any(other.startswith(f"{line}.") for other in self.lines)}

    def objects(self, node):
        """The classes of which a node is an object."""
        return self._objects.get(ast.unparse(node), "").split()

    def imported(self, node):
        """What a node is called in the table, where it is reached from an import."""
        if isinstance(node, ast.Name) and node.id in self._imports:
            return [self._imports[node.id]]
        return [f"{name}.{node.attr}" for name in self.imported(node.value)] if isinstance(node, ast.Attribute) else []

    def names(self, node):
        """What a node is called in the table: something imported, or a member of an object."""
        if isinstance(node, ast.Attribute) and ast.unparse(node) not in self._own and self.objects(node.value):
            return [f"{name}.{node.attr}" for name in self.objects(node.value)]
        return self.imported(node)

    def visit_Await(self, node):
        self.visit_Call(node.value, "await ") if isinstance(node.value, ast.Call) else self.generic_visit(node)

    def visit_Call(self, node, before=""):
        for name in self.objects(node.func) or self.names(node.func):
            given = ["_" for argument in node.args if not isinstance(argument, ast.Starred)]
            given += [f"{keyword.arg}=_" for keyword in node.keywords if keyword.arg]
            if name == "vllm.AsyncEngineArgs":
                given = [f"{key}=_" for key in engine_arguments()]
            self._add(f"{before}{name}({', '.join(given)})")
        inner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        for child in (inner, *node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(child)

    def visit_Attribute(self, node):
        for name in self.names(node):
            self._add(name)
        self.generic_visit(node)

    def visit_Subscript(self, node):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            for name in self.objects(node.value):
                self._add(f"{name}.{node.slice.value}")
        self.generic_visit(node)

    def visit_Dict(self, node):
        for name in self.objects(node):
            self._add(f"{name}({', '.join(f'{key.value}=_' for key in node.keys)})")
        self.generic_visit(node)

    def _add(self, line):
        self.lines.add(vllm_names.use("", line).text)


def engine_arguments():
    """What `create_vllm_engines` gives the rollout actor that the actor hands on to vLLM."""
    tree = tree_of("openrlhf/trainer/ray/vllm_engine.py")
    create = next(n for n in tree.body if getattr(n, "name", "") == "create_vllm_engines")
    init = next(n for n in ast.walk(tree) if getattr(n, "name", "") == "__init__")
    keys = set()
    for node in ast.walk(create):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "actor_kwargs":
            keys |= {key.value for key in node.value.keys}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("actor_kwargs["):
            keys.add(node.targets[0].slice.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "actor_kwargs.update":
            keys |= {key.value for key in node.args[0].keys}
    popped = [n for n in ast.walk(init) if isinstance(n, ast.Call) and ast.unparse(n.func) == "kwargs.pop"]
    taken = {argument.arg for argument in init.args.kwonlyargs} | {call.args[0].value for call in popped}
    assert len(keys) > 15 and taken < keys
    return sorted(keys - taken)


def test_every_use_holds():
    assert vllm_names.problems(COMMITTED) == []
    used = {line.name for line in vllm_names.uses()}
    owners = {name.rpartition(".")[0] for name in used}
    assert NAMES.keys() <= used | owners  # nothing that is not used any more
    assert EXTRACT.stat().st_size < 60_000


@pytest.mark.parametrize("user", USERS)
def test_the_table_says_what_the_source_does(user):
    lines = [line for line in vllm_names.uses() if line.user == user]
    assert Finder(user).lines == {line.text for line in lines if not line.values and not line.absent}
    for line in lines:
        assert line.values <= strings(tree_of(user)), line.text


def test_every_import_of_vllm_is_in_the_table():
    files = {f"openrlhf/{path.relative_to(OPENRLHF).as_posix()}": path for path in OPENRLHF.rglob("*.py")}
    for folder in ("openrlhf_mel", "eval", "data", "benchmarks", "tools"):
        files |= {path.relative_to(REPO).as_posix(): path for path in (REPO / folder).rglob("*.py")}
    importing = set()
    for name, path in files.items():
        if re.search(r"\bvllm\b|VLLM_", text := path.read_text(encoding="utf-8")):
            tree = ast.parse(text)
            table = {line.name for line in vllm_names.uses() if line.user == name}
            for imported in imports(tree).values():
                importing.add(name)
                assert any(f"{used}.".startswith(f"{imported}.") for used in table), f"{name} imports {imported}"
            if any(re.fullmatch("VLLM_[A-Z0-9_]+", text) for text in strings(tree)):
                assert name in USERS, f"{name} sets variables of vLLM"
    assert len(importing) == 6 and {"eval/backends/vllm_worker.py", "openrlhf_mel/upstream/samples.py"} < importing


def test_the_worker_extension_brings_only_new_names():
    wrap = tree_of("openrlhf/trainer/ray/vllm_worker_wrap.py").body[0]
    brings = {node.name for node in wrap.body if isinstance(node, ast.FunctionDef)}
    worker = "vllm.v1.worker.gpu_worker.Worker"
    assert {line.name for line in vllm_names.uses() if line.absent} == {f"{worker}.{name}" for name in brings}
    called = {
        node.args[0].value
        for node in ast.walk(tree_of("openrlhf/trainer/ray/vllm_engine.py"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.llm.collective_rpc"
    }
    assert called == brings


def test_the_version_is_the_pinned_one():
    [pinned] = re.findall(r"^vllm==(\S+)$", (REPO / "requirements.txt").read_text(encoding="utf-8"), re.M)
    assert COMMITTED["vllm"] == pinned == standins.VLLM_VERSION
    assert f'vllm=={pinned}; extra == "vllm"' in importlib.metadata.requires("openrlhf")


def parameters(name):
    return vllm_names.signature(NAMES[name]["takes"]).parameters


def test_the_stand_ins_offer_nothing_that_vllm_lacks():
    offered = set()
    for node in ast.walk(tree_of("openrlhf_mel/cpu/standins.py")):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "_module"
            and is_vllm(ast.unparse(node.args[0])[1:-1])
        ):
            offered |= {f"{node.args[0].value}.{keyword.arg}" for keyword in node.keywords}
    offered.remove("vllm.__mel_standin__")
    assert len(offered) == 4 and offered <= NAMES.keys()


def test_the_sampling_stand_in_has_vllms_fields_and_defaults():
    theirs = parameters("vllm.SamplingParams")
    for field in dataclasses.fields(standins.SamplingParams):
        defaults = {field.default, theirs[field.name].default}
        assert len(defaults) == 1, field.name


def test_the_cpu_engine_reads_and_gives_what_vllm_has():
    user = "openrlhf_mel/cpu/engine.py"
    read = {line.removeprefix("vllm.SamplingParams.") for line in Finder(user).lines}
    assert {"temperature", "max_tokens"} < read <= parameters("vllm.SamplingParams").keys()
    classes = [set(parameters(f"vllm.{name}")) for name in ("RequestOutput", "CompletionOutput", "logprobs.Logprob")]
    given = [n for n in ast.walk(tree_of(user)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "SimpleNamespace"]
    assert len(given) == 3
    for call in given:
        assert any({keyword.arg for keyword in call.keywords} <= fields for fields in classes), ast.unparse(call)


def test_the_broadcast_stand_in_takes_what_vllms_does():
    from openrlhf_mel.cpu.policy import RayBroadcast

    ours = list(inspect.signature(RayBroadcast.broadcast).parameters)
    assert ours == ["self", *parameters(f"{COMMUNICATOR}.broadcast")]
