"""Imports run one way: who may know whom (README, *Architecture*), lazy imports included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = "openrlhf_mel"
# Each room, or module of the package itself, knows those before it in this list, and none beside or after it.
LAYERS = (
    {"errors", "text"},
    {"conversation", "turns"},
    {"prompts"},
    {"verifier"},
    {"reward", "settings"},
    {"method"},
    {"run"},
    {"upstream"},
    {"cpu"},
    {"launch"},
    {"preflight", "train"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = {"deepspeed", "openrlhf", "peft", "ray", "torch", "transformers", "vllm"}
ANYTHING = {"upstream", "cpu", "launch"}  # rooms that may import all of HEAVY
# What others may import of it, inside functions included.
ALLOWED = {"reward": {"torch"}, "settings": {"torch", "transformers"}}
TORCH = {"nll_head.py", "nll_loss.py", "mismatch.py"}  # of `method`; its other modules are pure
# what eval/, data/ and demo/ may use
SHARED = {
    "conversation",
    "cpu.vllm_arguments",
    "errors",
    "prompts",
    "run",
    "settings.vllm_build",
    "text",
    "turns",
    "verifier",
}


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
    allowed = {"torch"} if own == "method" and path.name in TORCH else ALLOWED.get(own, set())
    for name in imports(path):
        said = f"{path}: {'.'.join(name)}"
        assert name[0] not in ("benchmarks", "data", "demo", "eval", "slurm", "tests", "toolkit"), said
        assert name[0] not in HEAVY - allowed or own in ANYTHING, said
        if name[0] == PACKAGE and name[1] in LEVEL and name[1] != own:
            assert LEVEL[name[1]] < LEVEL[own], said


# Folders beside the package, and which of each other they know.
BESIDE = {"toolkit": set(), "data": {"toolkit"}, "eval": {"data", "toolkit"}, "demo": {"eval"}}


@pytest.mark.parametrize(
    "path", [path for folder in BESIDE for path in files(folder)], ids=lambda path: str(path.relative_to(REPO))
)
def test_evaluation_and_data_use_what_is_shared(path: Path):
    for name in imports(path):
        said = f"{path}: {'.'.join(name)}"
        assert name[0] != "openrlhf", said
        if name[0] == PACKAGE and name[1:] != ("__version__",):
            assert name[1] in SHARED or ".".join(name[1:3]) in SHARED, said
        own = path.relative_to(REPO).parts[0]
        assert name[0] not in BESIDE.keys() - BESIDE[own] - {own}, said


def test_every_module_has_a_layer():
    assert {part(path) for path in files(PACKAGE)} - {"__init__"} == LEVEL.keys()
