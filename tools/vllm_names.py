"""What a wheel of vLLM has of the names in tests/contract/vllm_uses.yaml, read from its source without importing it.

    python tools/vllm_names.py WHEEL_OR_FOLDER --output tests/contract/vllm_names.json
    python tools/vllm_names.py WHEEL_OR_FOLDER --check tests/contract/vllm_names.json

The folder is one that holds an unpacked or installed `vllm`. What does not fit is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

USES = Path(__file__).parents[1] / "tests" / "contract" / "vllm_uses.yaml"
Extract = dict[str, Any]  # of a wheel: its version, its file name, {name: what it is}, {file read: its SHA-256}


class Use(NamedTuple):
    """A line of the table. Its text does not depend on the order of keywords."""

    user: str
    text: str
    name: str
    call: ast.Call | None
    values: set[str]

    @property
    def absent(self) -> bool:
        return self.text.startswith("not ")


def use(user: str, line: str) -> Use:
    """A line of the table."""
    node = ast.parse(line, mode="eval").body
    core = node.value if isinstance(node, ast.Await) else node.operand if isinstance(node, ast.UnaryOp) else node
    call = core if isinstance(core, ast.Call) else None
    if call:
        call.keywords.sort(key=lambda keyword: keyword.arg)
    name = call.func if call else core.value if isinstance(core, ast.Subscript) else core
    values = _strings(core.slice) if isinstance(core, ast.Subscript) else set()
    return Use(user, ast.unparse(node), ast.unparse(name), call, values)


def uses() -> list[Use]:
    """The table."""
    table = yaml.safe_load(USES.read_text(encoding="utf-8"))
    return [use(user, ast.unparse(line)) for user, lines in table.items() for line in ast.parse(lines).body]


class Source:
    """vLLM's files in a wheel or a folder. `read`: the SHA-256 of those that were read."""

    def __init__(self, path: Path) -> None:
        self._root = zipfile.Path(path) if zipfile.is_zipfile(path) else path
        self._modules: dict[str, tuple[list[ast.stmt], bool] | None] = {}
        self.read: dict[str, str] = {}

    def version(self) -> str:
        """As the distribution's METADATA says."""
        inside = self._root.iterdir() if self._root.is_dir() else ()
        found = [path for path in inside if re.fullmatch(r"vllm-[^-]+\.dist-info", path.name)]
        if len(found) != 1:
            raise SystemExit(f"{self._root}: found {len(found)} vllm-*.dist-info, expected 1, as in a wheel of vLLM")
        return re.search(r"^Version: (\S+)", (found[0] / "METADATA").read_text(encoding="utf-8"), re.M)[1]

    def module(self, name: str) -> tuple[list[ast.stmt], bool] | None:
        """A module's statements, and whether it is a package."""
        if name not in self._modules:
            self._modules[name] = None
            base = name.replace(".", "/")
            for path in (f"{base}/__init__.py", f"{base}.py"):
                if (file := self._root / path).is_file():
                    self.read[path] = hashlib.sha256(file.read_bytes()).hexdigest()
                    self._modules[name] = list(_at_runtime(ast.parse(file.read_bytes()).body)), path.endswith("t__.py")
                    break
        return self._modules[name]

    def find(self, name: str) -> tuple[str, ast.stmt, str]:
        """The module and the statement that define a name, over all re-exports; and the part of the name that is a member.

        Raises LookupError.
        """
        parts = name.split(".")
        for size in range(len(parts) - 1, 0, -1):
            if self.module(".".join(parts[:size])):
                return *self._bound(".".join(parts[:size]), parts[size]), ".".join(parts[size + 1 :])
        raise LookupError(name)

    def _bound(self, module: str, name: str) -> tuple[str, ast.stmt]:
        statements, package = self.module(module)
        for statement in reversed(statements):
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if name == (alias.asname or alias.name):
                        base = module.split(".")[: package - statement.level or None] if statement.level else []
                        return self.find(".".join([*base, *filter(None, [statement.module]), alias.name]))[:2]
            elif name in _defines(statement):
                alias = getattr(statement, "value", None)
                return self._bound(module, alias.id) if isinstance(alias, ast.Name) else (module, statement)
        if any("__getattr__" in _defines(statement) for statement in statements):
            for statement in statements:
                value = _entries(getattr(statement, "value", None)).get(name)
                if isinstance(value, ast.Constant) and ":" in str(value.value):  # ".engine.arg_utils:EngineArgs"
                    target = value.value.replace(":", ".")
                    return self.find(module + target if target.startswith(".") else target)[:2]
                if value:
                    return module, statement
        raise LookupError(f"{module}.{name}")

    def lineage(self, module: str, cls: ast.ClassDef) -> tuple[list[ast.ClassDef], set[str]]:
        """A class and its bases, nearest first; and the names of bases that are not vLLM's."""
        classes, others = [cls], set()
        for base in cls.bases:
            name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
            try:
                nearer, further = self.lineage(*self._bound(module, name))
                classes, others = classes + nearer, others | further
            except LookupError:
                others.add(name.rpartition(".")[2])
        return classes, others


def _at_runtime(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, those in `if` and `try` as well; not those for type checkers alone."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            typing = re.fullmatch(r"(\w+\.)?TYPE_CHECKING", ast.unparse(getattr(statement, "test", ast.Name("_"))))
            yield from _at_runtime(statement.orelse if typing else statement.body + statement.orelse)


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    return [ast.unparse(target) for target in targets if target]


def _entries(node: ast.expr | None) -> dict[Any, ast.expr]:
    """A dict display's values by its plain keys, as a module's `__getattr__` looks names up in."""
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    return {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}


def _strings(*nodes: ast.expr) -> set[str]:
    constants = (n for node in nodes for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {n.value for n in constants if isinstance(n.value, str)}


def _decorators(node: Any) -> set[str]:
    return {ast.unparse(d.func if isinstance(d, ast.Call) else d).rpartition(".")[2] for d in node.decorator_list}


def _argument(name: str, default: ast.expr | None) -> str:
    """`name`, or `name=default`, where `...` is a default that is not a plain value."""
    plain = isinstance(default.operand if isinstance(default, ast.UnaryOp) else default, ast.Constant)
    return name if default is None else f"{name}={ast.unparse(default) if plain else '...'}"


def _function(node: ast.stmt, in_class: bool) -> dict[str, Any] | None:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    marks, a = _decorators(node), node.args
    if marks & {"property", "cached_property"}:
        return {"kind": "property"}
    positional = a.posonlyargs + a.args
    defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults
    takes = [_argument(p.arg, default) for p, default in zip(positional, defaults, strict=True)]
    takes[len(a.posonlyargs) : len(a.posonlyargs)] = ["/"] * bool(a.posonlyargs)
    takes = takes[in_class and "staticmethod" not in marks :]
    takes += [f"*{a.vararg.arg if a.vararg else ''}"] * bool(a.vararg or a.kwonlyargs)
    takes += [_argument(p.arg, default) for p, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    takes += [f"**{a.kwarg.arg}"] if a.kwarg else []
    kind = next(iter(marks & {"classmethod", "staticmethod"}), "method" if in_class else "function")
    if isinstance(node, ast.AsyncFunctionDef):
        kind = f"async {'generator ' * any(isinstance(n, ast.Yield) for n in ast.walk(node))}{kind}"
    return {"kind": kind, "takes": takes}


def _value(kind: str, *values: ast.expr | None) -> dict[str, Any]:
    """A value's kind, and the strings of a `Literal`, tuple or set."""
    strings = _strings(*(v for v in values if isinstance(v, ast.Subscript | ast.Tuple | ast.Set)))
    return {"kind": kind} | ({"values": sorted(strings)} if strings else {})


def _member(classes: list[ast.ClassDef], name: str) -> dict[str, Any] | None:
    for statement in (statement for cls in classes for statement in reversed(cls.body)):
        if name in _defines(statement):
            return _function(statement, True) or _value("field", getattr(statement, "value", None))
    inside = (n for cls in classes for n in ast.walk(cls) if isinstance(n, ast.Assign | ast.AnnAssign))
    set_there = [n.value for n in inside if f"self.{name}" in _defines(n)]
    return _value("attribute", *set_there) if set_there else None


def _class(classes: list[ast.ClassDef], others: set[str]) -> dict[str, Any]:
    kinds = {"Struct": "struct", "TypedDict": "typed dict", "Enum": "enum", "IntEnum": "enum"}
    kind = next((kinds[name] for name in others if name in kinds), "class")
    if _decorators(classes[0]) & {"dataclass", "config"}:  # `config` is vLLM's own dataclass
        kind = "dataclass"
    if kind in ("class", "enum"):
        return {"kind": kind, "takes": (_member(classes, "__init__") or {"takes": []})["takes"]}
    takes = {"*": "*"} if kind == "typed dict" else {}
    for field in (statement for cls in reversed(classes) for statement in cls.body):
        if isinstance(field, ast.AnnAssign) and not re.search("ClassVar|init=False", ast.unparse(field)):
            optional = "NotRequired" in ast.unparse(field.annotation)
            takes[field.target.id] = _argument(field.target.id, ast.Constant(...) if optional else field.value)
    return {"kind": kind, "takes": list(takes.values())}


def extract(path: Path) -> Extract:
    """What a wheel or folder has of the table's names. What it lacks is left out."""
    source, names = Source(path), {}
    version = source.version()
    for name in sorted({line.name for line in uses()}):
        try:
            module, node, member = source.find(name)
        except LookupError:
            continue
        owner = name.removesuffix(f".{member}") if member else name
        if isinstance(node, ast.ClassDef):
            classes, others = source.lineage(module, node)
            names.setdefault(owner, {"module": module, **_class(classes, others)})
            if member and (found := _member(classes, member)):
                names[name] = found
        elif not member:
            found = _function(node, False) or _value("value", getattr(node, "value", None))
            names[name] = {"module": module, **found}
    return {"vllm": version, "wheel": path.name, "names": names, "sha256": dict(sorted(source.read.items()))}


def signature(takes: list[str]) -> inspect.Signature:
    """What an extract's `takes` describes."""
    parameters, kind = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    for text in takes:
        name, _, default = text.partition("=")
        if name == "/":
            parameters = [p.replace(kind=inspect.Parameter.POSITIONAL_ONLY) for p in parameters]
        elif name.startswith("**"):
            parameters.append(inspect.Parameter(name[2:], inspect.Parameter.VAR_KEYWORD))
        elif name.startswith("*"):
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += [inspect.Parameter(name[1:], inspect.Parameter.VAR_POSITIONAL)] if name[1:] else []
        else:
            value = ast.literal_eval(default) if default else inspect.Parameter.empty
            parameters.append(inspect.Parameter(name, kind, default=value))
    return inspect.Signature(parameters)


def problems(found: Extract) -> list[str]:
    """The lines of the table that do not hold, each with its user."""
    return [f"{line.user}: {line.text}: {why}" for line in uses() if (why := _problem(line, found["names"]))]


def _problem(line: Use, names: dict[str, Any]) -> str | None:
    entry = names.get(line.name)
    if line.absent:
        has_class = line.name.rpartition(".")[0] in names
        return f"found {entry['kind']}, expected none" if entry else None if has_class else "its class is not there"
    if entry is None:
        return "not there"
    if line.values:
        has = entry.get("values", [])
        return None if line.values <= set(has) else f"found {', '.join(has) or 'no values'}"
    if bool(line.call) != ("takes" in entry):
        return f"found {entry['kind']}, expected {'what can be called' if line.call else 'a value'}"
    if line.call:
        awaited = line.text.startswith("await ")
        if awaited != (entry["kind"].startswith("async") and "generator" not in entry["kind"]):
            return f"found {entry['kind']}, expected one {'' if awaited else 'not '}to be awaited"
        try:
            signature(entry["takes"]).bind(*line.call.args, **{k.arg: k.value for k in line.call.keywords})
        except TypeError as error:
            return f"{error}; it takes ({', '.join(entry['takes'])})"
    return None


def differences(committed: Extract, found: Extract) -> list[str]:
    """How a wheel's extract differs from the committed one. The file's name may: it says for which machines the wheel is."""
    before, after = _flat(committed), _flat(found)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, list) and isinstance(new, list) and old != new:
            lost, gained = ([value for value in a if value not in b] for a, b in ((old, new), (new, old)))
            what = f"lost {', '.join(lost) or 'none'}; gained {', '.join(gained) or 'none'}"
            lines.append(f"{key}: {what if lost or gained else 'in another order'}")
        elif old != new:
            lines.append(f"{key}: found {new or 'none'}, expected {old or 'none'}")
    return lines


def _flat(found: Extract) -> dict[str, Any]:
    names = {f"{name}: {key}": value for name, entry in found["names"].items() for key, value in entry.items()}
    return {"version": found["vllm"]} | names | {f"{path}: SHA-256": sha for path, sha in found["sha256"].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="WHEEL_OR_FOLDER")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--output", type=Path, metavar="FILE", help="write the extract, if every use holds")
    action.add_argument("--check", type=Path, metavar="FILE", help="compare with an extract")
    arguments = parser.parse_args()
    found = extract(arguments.source)
    lines = problems(found)
    if arguments.check:
        lines += differences(json.loads(arguments.check.read_text(encoding="utf-8")), found)
    elif not lines:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines) or f"vllm {found['vllm']}: all {len(uses())} uses hold")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
