"""docs/architecture.md agrees with the source: names replaced in OpenRLHF, and the list of files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "openrlhf_mel"
DOCUMENT = REPO / "docs" / "architecture.md"
OTHERS = {"deepspeed", "openrlhf", "ray", "torch", "vllm"}


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


def replaced(path: Path) -> Iterator[str]:
    """Yield the names that a file assigns in other packages' modules, and the names of its `Replacement`s."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported(tree)
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else []:
            first, _, rest = dotted(target).partition(".")
            module = names.get(first, "")
            if rest and module.split(".")[0] in OTHERS:
                yield f"{module}.{rest}"
        if isinstance(node, ast.Call) and dotted(node.func) == "Replacement":
            yield ast.literal_eval(node.args[0])


def test_the_table_has_every_name_that_is_replaced():
    files = [PACKAGE / "launch.py", *(PACKAGE / "upstream").glob("*.py"), *(PACKAGE / "cpu").glob("*.py")]
    found = {(name, path.name) for path in files for name in replaced(path)}
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| `([\w.]+)` \| [^|]+ \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    assert set(rows) == found
    assert len(rows) == len(found) > 20


def test_what_stands_in_a_function_and_behind_another_name_is_found(tmp_path):
    source = tmp_path / "file.py"
    source.write_text(
        "def f():\n    import openrlhf.cli as c\n    c.train.run['a'] = 1\n    other.b = 2\n    local = 3\n"
    )
    assert list(replaced(source)) == ["openrlhf.cli.train.run"]


def test_every_file_of_the_package_has_its_place():
    text = DOCUMENT.read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w]+\.py", text[: text.index("## One step")]))
    whole = {"cpu", "preflight", "verifier"}  # described only as a room
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert {path.name for path in files if path.parts[0] not in whole} - listed == set()
    there = {path.name for path in REPO.rglob("*.py") if ".venv" not in path.parts}
    assert listed <= there
