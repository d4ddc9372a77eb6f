"""Imports run one way: who may know whom (README, *Architecture*), lazy imports included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = "openrlhf_mel"
# Each layer knows those above it in this list, and none below or beside it.
LAYERS = (
    {"conversation", "errors", "head", "internalization", "last_words", "mismatch", "text", "vllm_cpu"},
    {"failure", "turns", "vllm_build"},
    {"config", "experience", "guard", "prompts", "verifier"},
    {"construction", "reward", "runlog", "schedule"},
    {"checkpoint", "metrics"},
    {"upstream", "cpu"},
    {"preflight", "train"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = {"deepspeed", "openrlhf", "peft", "ray", "torch", "transformers", "vllm"}
# torch alone; the others nothing of HEAVY, not even inside a function
TORCH = {"head", "internalization", "mismatch", "reward"}
# what eval/ and data/ may use
SHARED = set(
    ["conversation", "errors", "last_words", "prompts", "runlog", "text", "turns", "verifier", "vllm_build", "vllm_cpu"]
)


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from ((*node.module.split("."), alias.name) for alias in node.names)


def files(folder: str) -> list[Path]:
    return sorted((REPO / folder).rglob("*.py"))


def part(path: Path) -> str:
    """The module or the subpackage of the package that a file belongs to."""
    return path.relative_to(REPO / PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(PACKAGE), ids=lambda path: str(path.relative_to(REPO)))
def test_the_package_imports_downward(path: Path):
    own = part(path)
    for name in imports(path):
        assert name[0] not in ("benchmarks", "data", "eval", "slurm", "tests"), f"{path}: {'.'.join(name)}"
        if name[0] in HEAVY and own not in ("upstream", "cpu"):
            assert own in TORCH and name[0] == "torch", f"{path}: {'.'.join(name)}"
        if name[0] != PACKAGE or len(name) < 2 or name[1] not in LEVEL or name[1] == own:
            continue
        # `cpu` builds on `upstream`, whose `launch` alone puts it in place.
        if {own, name[1]} == {"upstream", "cpu"}:
            assert own == "cpu" or path.name == "launch.py", f"{path}: {'.'.join(name)}"
        else:
            assert LEVEL[name[1]] < LEVEL[own], f"{path}: {'.'.join(name)}"


@pytest.mark.parametrize("path", [*files("eval"), *files("data")], ids=lambda path: str(path.relative_to(REPO)))
def test_evaluation_and_data_use_what_is_shared(path: Path):
    for name in imports(path):
        assert name[0] != "openrlhf", f"{path}: {'.'.join(name)}"
        if name[0] == PACKAGE and name[1:] != ("__version__",):
            assert name[1] in SHARED, f"{path}: {'.'.join(name)}"
        # The demo trains and evaluates; preparing data knows nothing of evaluation.
        if name[0] == "eval":
            assert (REPO / "eval") in path.parents or path.parent.name == "toy", f"{path}: {'.'.join(name)}"


def test_every_module_has_a_layer():
    assert {part(path) for path in files(PACKAGE)} - {"__init__"} == LEVEL.keys()
