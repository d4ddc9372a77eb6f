"""Imports run one way (docs/architecture.md), including lazy imports and files named by their path."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from openrlhf_mel import verifier

REPO = Path(__file__).resolve().parents[2]
PACKAGE = "openrlhf_mel"
# Each room or top-level module may import those above it in this list, and none beside or below it.
LAYERS = (
    {"child_process", "disk", "errors", "provenance", "text"},
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
# What other rooms may import from HEAVY, also inside functions.
ALLOWED = {"reward": {"torch"}, "settings": {"torch", "transformers"}}
# files of `method` that may import torch; the others are pure
TORCH = {"entropy.py", "mismatch.py", "nll_batch.py", "nll_head.py", "nll_loss.py"}
# what eval/, data/, demo/ and slurm/ may use
SHARED = {
    "child_process",
    "conversation",
    "cpu.vllm_arguments",
    "disk",
    "errors",
    "preflight.evaluation",
    "prompts",
    "provenance",
    "run",
    "settings.vllm_build",
    "text",
    "turns",
    "verifier",
}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from ((*node.module.split("."), alias.name) for alias in node.names)


def files(folder: str) -> list[Path]:
    return sorted((REPO / folder).rglob("*.py"))


def named_files(path: Path) -> Iterator[Path]:
    """Yield the repository's files and folders that a file names by path, as in `Path(__file__).parent / "a" / "b"`."""
    tree = ast.parse(path.read_text())
    values: dict[str, Path] = {}

    def value(node: ast.expr) -> Path | None:
        match node:
            case ast.Name():
                return values.get(node.id)
            case ast.BinOp(left, ast.Div(), ast.Constant(str(name))) if folder := value(left):
                return folder / name
            case ast.Attribute(inner, "parent") if folder := value(inner):
                return folder.parent
            case ast.Subscript(ast.Attribute(inner, "parents"), ast.Constant(int(number))) if folder := value(inner):
                return folder.parents[number]
            case ast.Call(ast.Name("Path"), [ast.Name("__file__")]):
                return path
            case ast.Call(ast.Attribute(inner, "with_name"), [ast.Constant(str(name))]) if folder := value(inner):
                return folder.with_name(name)
            case ast.Call(ast.Attribute(inner, "resolve" | "absolute"), []):
                return value(inner)
        return None

    for node in ast.walk(tree):  # outer statements first: a function may use a constant
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (named := value(node.value)):
            values[node.targets[0].id] = named
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and (named := value(node)):
            yield named
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[\w.-]+(/[\w.-]+)+", str(node.value)):
            yield REPO / node.value  # relative to the repository's root, where all commands run


def reaches(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a file uses of this repository, as dotted names: its imports, and the files that it names by path."""
    yield from imports(path)
    for named in named_files(path):
        if named.is_relative_to(REPO) and (parts := named.relative_to(REPO).parts) and named.exists():
            yield (*(name.removesuffix(".py") for name in parts), "")


def part(path: Path) -> str:
    """Return the package's module or subpackage to which a file belongs."""
    return path.relative_to(REPO / PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(PACKAGE), ids=lambda path: str(path.relative_to(REPO)))
def test_the_package_imports_downward(path: Path):
    own = part(path)
    allowed = {"torch"} if own == "method" and path.name in TORCH else ALLOWED.get(own, set())
    for name in reaches(path):
        said = f"{path}: {'.'.join(name)}"
        assert name[0] not in ("benchmarks", "data", "demo", "eval", "slurm", "tests", "toolkit"), said
        assert name[0] not in HEAVY - allowed or own in ANYTHING, said
        if name[0] == PACKAGE and name[1] in LEVEL and name[1] != own:
            assert LEVEL[name[1]] < LEVEL[own], said


# Folders beside the package, and the ones that each may import.
BESIDE = {
    "toolkit": set(),
    "data": {"toolkit"},
    "eval": {"data", "toolkit"},
    "demo": {"data", "eval"},
    "slurm": {"data", "eval"},
}


@pytest.mark.parametrize(
    "path", [path for folder in BESIDE for path in files(folder)], ids=lambda path: str(path.relative_to(REPO))
)
def test_evaluation_and_data_use_what_is_shared(path: Path):
    for name in reaches(path):
        said = f"{path}: {'.'.join(name)}"
        assert name[0] != "openrlhf", said
        if name[0] == PACKAGE and name[1:] != ("__version__",):
            assert name[1] in SHARED or ".".join(name[1:3]) in SHARED, said
            assert name[1] != "verifier" or {*name[2:3]} <= {*verifier.__all__}, said
        own = path.relative_to(REPO).parts[0]
        assert name[0] not in BESIDE.keys() - BESIDE[own] - {own}, said


def test_every_module_has_a_layer():
    assert {part(path) for path in files(PACKAGE)} - {"__init__"} == LEVEL.keys()


ROOMS = (PACKAGE, "data", "demo", "eval", "slurm", "toolkit")
COMMANDS = {"__init__", "__main__", "report", "run"}  # a room's entry is named after its action


def public_types(path: Path) -> Iterator[str]:
    """Yield a file's public classes and type aliases: mixed-case names without a leading underscore."""
    for node in ast.parse(path.read_text()).body:
        names = [node.name] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        yield from (name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name))


def repeated(named: Iterator[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the names that occur in several files, with these files."""
    where: dict[str, list[str]] = {}
    for name, path in named:
        where.setdefault(name, []).append(str(path.relative_to(REPO)))
    return {name: paths for name, paths in where.items() if len(paths) > 1}


def test_no_two_library_modules_share_a_name():
    """An editor's tab shows only a file's name."""
    modules = ((path.stem, path) for room in ROOMS for path in files(room))
    assert repeated((name, path) for name, path in modules if name not in COMMANDS) == {}


def test_no_two_public_classes_share_a_name():
    assert repeated((name, path) for room in ROOMS for path in files(room) for name in public_types(path)) == {}


def test_names_that_several_files_share_are_found(tmp_path):
    source = tmp_path / "file.py"
    source.write_text("class Row: ...\nclass _Own: ...\nRows = list[Row]\nMOST = 3\nT = 1\n")
    assert list(public_types(source)) == ["Row", "Rows"]
    here, there = REPO / "a.py", REPO / "b.py"
    assert repeated(iter([("x", here), ("y", here), ("x", there)])) == {"x": ["a.py", "b.py"]}


def test_a_file_that_is_named_by_its_path_is_an_arrow(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REPO", tmp_path)
    source = tmp_path / "openrlhf_mel" / "settings" / "file.py"
    for folder in (source.parent, tmp_path / "openrlhf_mel" / "upstream", tmp_path / "eval"):
        folder.mkdir(parents=True)
    (tmp_path / "eval" / "list.yaml").touch()
    source.write_text(
        "HERE = Path(__file__).resolve()\n"
        "def f():\n"
        "    root = HERE.parents[2]\n"
        "    return root / 'eval' / 'list.yaml', HERE.parent.parent / 'upstream', HERE.with_name('own'), 'rollout/tokens'\n"
        "OTHER = 'eval/list.yaml'\n"
    )
    found = {".".join(name) for name in reaches(source)}
    assert {"eval.list.yaml.", "eval.", "openrlhf_mel.upstream."} <= found
    assert not any("rollout" in name or "own" in name for name in found)
