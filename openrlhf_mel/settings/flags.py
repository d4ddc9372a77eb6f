"""OpenRLHF's own command line, read from its source without importing it.

Its parser is built under `if __name__ == "__main__"` of `openrlhf/cli/train_ppo_ray.py`, whose import takes
17 seconds and wants Ray and vLLM. Only the statements from `parser = ...` up to `parser.parse_args()` are run
here, so flags, types, choices and defaults are upstream's own, whatever other packages are installed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from openrlhf_mel.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse that raises a UserError instead of printing its usage (hundreds of lines) and exiting."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def source_path(file: str = "cli/train_ppo_ray.py") -> Path:
    """Path of a file of the installed `openrlhf`. Raises UserError where OpenRLHF is missing."""
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("openrlhf is not installed; expected openrlhf==0.11.2 (make setup, or requirements.txt)")
    return Path(spec.submodule_search_locations[0]) / file


@cache
def parser() -> argparse.ArgumentParser:
    """Upstream's parser. Raises UserError when its source no longer has the expected form."""
    path = source_path()
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    main = next((n for n in tree.body if isinstance(n, ast.If) and "__main__" in ast.unparse(n.test)), None)
    statements: list[ast.stmt] = []
    for statement in main.body if main else []:
        if "parse_args" in ast.unparse(statement):
            break
        statements.append(statement)
    else:
        raise UserError(f"{path}: found no parse_args() under __main__, expected that of openrlhf 0.11.2")

    class _Argparse:
        ArgumentParser = Parser

    scope: dict[str, Any] = {"argparse": _Argparse, "datetime": datetime}
    exec(compile(ast.Module(statements, type_ignores=[]), str(path), "exec"), scope)
    built: Parser = scope["parser"]
    return built


@cache
def actions() -> dict[str, argparse.Action]:
    """Every upstream flag, by its dotted name without the dashes (`data.max_len`)."""
    return {
        string.removeprefix("--"): action
        for action in parser()._actions
        for string in action.option_strings
        if string.startswith("--") and action.dest != "help"
    }


def same(value: Any, other: Any) -> bool:
    """Whether two values of a flag are equal; upstream's defaults are tuples, what is read of a file are lists."""
    return bool(_listed(value) == _listed(other))


def is_default(name: str, value: Any) -> bool:
    """Whether the value is upstream's default. Of a switch, which may only be set, never."""
    action = actions()[name]
    return not is_switch(action) and not isinstance(value, bool) and same(value, action.default)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def is_switch(action: argparse.Action) -> bool:
    """Whether the flag takes no value upstream (`--train.colocate_all`)."""
    return action.nargs == 0


def to_argv(name: str, value: Any) -> list[str]:
    """`value` of flag `name` as arguments of upstream's command line; empty when the flag must be left out.

    Raises:
        UserError: a switch has a value other than true or false.
    """
    action = actions()[name]
    if value is None:
        return []
    if is_switch(action):
        if not isinstance(value, bool):
            raise UserError(f"--{name}: found {value!r}, expected true or false")
        # store_false flags (`no_...`) and store_true flags alike: true means "give the flag".
        if value:
            return [f"--{name}"]
        # A switch that is on by default: the one with the same `dest` switches it off.
        on = action.const and action.default
        return (
            [f"--{n}" for n, other in actions().items() if other.dest == action.dest and not other.const] if on else []
        )
    if isinstance(value, bool | dict):
        raise UserError(f"--{name}: found {value!r}, expected {_expected(action)}")
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) != 1 and action.nargs is None:
        raise UserError(f"--{name}: found {value!r}, expected one value")
    if len(values) == 1 and action.nargs is None:
        return [f"--{name}={values[0]}"]  # one token: values such as -1 would look like a flag
    return [f"--{name}", *map(str, values)]


def _expected(action: argparse.Action) -> str:
    if action.choices:
        return "one of " + ", ".join(map(str, action.choices))
    kinds: dict[object, str] = {int: "a whole number", float: "a number"}
    return kinds.get(action.type, "a text")
