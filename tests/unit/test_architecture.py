"""docs/architecture.md agrees with the source: names replaced in OpenRLHF, and the list of files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "openrlhf_mel"
DOCUMENT = REPO / "docs" / "architecture.md"
OTHERS = {"deepspeed", "flash_attn", "openrlhf", "peft", "ray", "torch", "transformers", "vllm"}


def imported(tree: ast.Module) -> dict[str, str]:
    """Return local name -> dotted name of a file's imports."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for an assignment target, also for an item of it."""
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def targets(tree: ast.AST) -> Iterator[ast.expr]:
    """What is assigned to, each name of a tuple on its own."""
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else []:
            yield from target.elts if isinstance(target, ast.Tuple) else [target]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the dotted name of what is called."""
    yield from ((dotted(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def of_others(name: str, names: dict[str, str]) -> str:
    """The whole name of what another package has; empty for anything else."""
    first, _, rest = name.partition(".")
    whole = f"{names.get(first, '')}.{rest}".rstrip(".")
    return whole if whole.split(".")[0] in OTHERS else ""


def assigned(tree: ast.Module) -> Iterator[str]:
    """What a file assigns in other packages' modules, the modules that it gives to `setattr`, and its `Replacement`s."""
    names = imported(tree)
    yield from (of_others(name, names) for name in map(dotted, targets(tree)) if "." in name)
    for called, call in calls(tree):
        if called == "setattr":
            yield of_others(dotted(call.args[0]), names)
        if called == "Replacement":
            yield ast.literal_eval(call.args[0])


def injected(tree: ast.Module) -> Iterator[str]:
    """The packages whose modules a file puts into `sys.modules`, itself or by a function of its own."""

    def keys(inner: ast.AST) -> list[ast.expr]:
        found = [target for target in targets(inner) if isinstance(target, ast.Subscript)]
        return [target.slice for target in found if dotted(target) == "sys.modules"]

    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and keys(node)}
    given = [call.args[0] for called, call in calls(tree) if called in functions and call.args]
    for key in [*keys(tree), *given]:
        package = key.value.split(".")[0] if isinstance(key, ast.Constant) else ""
        yield package if package in OTHERS else ""


def changed(tree: ast.Module) -> Iterator[str]:
    """`argument.attribute` that a function assigns, where the argument is no object of this package."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    own |= {name for name, whole in imported(tree).items() if whole.startswith(PACKAGE.name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            foreign = {a.arg for a in arguments if a.annotation is None or dotted(a.annotation) not in own} - {"self"}
            yield from (name for name in map(dotted, targets(node)) if name.split(".")[0] in foreign and "." in name)


def subclassed(tree: ast.Module) -> Iterator[str]:
    """The bases of the classes that a file gives to others by name, as in "openrlhf_mel.cpu.vllm_worker.CPUWorkerWrap"."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if re.fullmatch(rf"{PACKAGE.name}(\.\w+)+\.[A-Z]\w+", text):
            module, _, name = text.rpartition(".")
            other = ast.parse((REPO / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
            (found,) = (each for each in ast.walk(other) if isinstance(each, ast.ClassDef) and each.name == name)
            yield from (of_others(dotted(base), imported(other)) for base in found.bases)


def replaced(path: Path) -> set[str]:
    """What a file replaces of other packages, in their modules and in their objects."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for find in (assigned, injected, changed, subclassed) for name in find(tree)} - {""}


def place(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_the_table_has_every_name_that_is_replaced():
    files = [PACKAGE / "launch.py", *(PACKAGE / "upstream").glob("*.py"), *(PACKAGE / "cpu").glob("*.py")]
    found = {(name, place(path)) for path in files for name in replaced(path)}
    rows = re.findall(
        r"^\| `([\w.]+)` \| [^|]+ \| `([\w./]+)` \| [^|]+ \|$", DOCUMENT.read_text(encoding="utf-8"), re.M
    )
    assert set(rows) == found
    assert len(rows) == len(found) > 20


def test_what_stands_in_a_function_and_behind_another_name_is_found(tmp_path):
    source = tmp_path / "file.py"
    source.write_text(
        "def f():\n    import openrlhf.cli as c\n    c.train.run['a'] = 1\n    other.b = 2\n    local = 3\n"
    )
    assert replaced(source) == {"openrlhf.cli.train.run"}


def test_what_is_set_in_another_way_is_found(tmp_path):
    source = tmp_path / "file.py"
    source.write_text(
        "import torch.cuda\n"
        "class Own: ...\n"
        "def put(name):\n    sys.modules[name] = 1\n"
        "def f(strategy, own: Own):\n    strategy.prepare, own.b = 1, 2\n    local = strategy\n"
        "put('vllm.utils')\n"
        "put('ours')\n"
        "sys.modules['flash_attn'] = 1\n"
        "setattr(torch.cuda, name, None)\n"
        "setattr(sys, name, None)\n"
        "extension = 'openrlhf_mel.cpu.vllm_worker.CPUWorkerWrap'\n"
    )
    worker = "openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap"
    assert replaced(source) == {"vllm", "flash_attn", "torch.cuda", "strategy.prepare", worker}


def test_the_functions_and_classes_that_the_document_names_are_there():
    named = re.findall(r"`([\w/]+\.(?:py|sh)): ([\w.]+)`", DOCUMENT.read_text(encoding="utf-8"))
    for file, name in named:
        path = PACKAGE / file if (PACKAGE / file).is_file() else REPO / file
        text = path.read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^ *((class |(async )?def ){part}\b|{part}( = |: |\(\) ))", text, re.M), (
                f"{file}: {name}"
            )
    assert len(named) > 20


def test_every_file_of_the_package_has_its_place():
    text = DOCUMENT.read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w]+\.py", text[: text.index("## One step")]))
    whole = {"cpu", "preflight", "verifier"}  # described only as a room
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert {path.name for path in files if path.parts[0] not in whole} - listed == set()
    there = {path.name for path in REPO.rglob("*.py") if ".venv" not in path.parts}
    assert listed <= there
