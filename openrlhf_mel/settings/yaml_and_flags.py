"""What the user gave: a YAML file, which nests dotted names, and the command line's flags.

The command line wins. Names are checked, and each `--mel.*` value has its option's type; the values of OpenRLHF's flags
are read by OpenRLHF's own parser later.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from openrlhf_mel.errors import UserError, collecting, raise_all
from openrlhf_mel.settings import flags, mel_options


def read(config_path: str | None, arguments: Sequence[str]) -> dict[str, Any]:
    """The given values by dotted name, `mel.` included; `key: null` leaves a key to its default, here as upstream.

    Raises:
        UserError: a file that cannot be read, unknown or misspelt names, values without a flag; all of them at once.
    """
    found: list[str] = []
    given: dict[str, Any] = {}
    with collecting(found):
        given = _read_yaml(config_path) if config_path else {}
    with collecting(found):
        given = given | _read_arguments(arguments)
    raise_all(found)
    return {name: value for name, value in given.items() if value is not None}


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; expected a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"--config {path}: not UTF-8; expected a YAML file") from None
    try:
        tree = yaml.load(text, _Loader) or {}
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: not YAML{f' at line {where.line + 1}' if where else ''}: {problem}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: found {type(tree).__name__}, expected keys such as `data:` and `mel:`")
    known, found = _known(), []
    given = {}
    for name, value in _flatten(tree, known, path):
        if name not in known:
            found.append(f"{path}: unknown key {name!r}{_nearest(name, known)}")
            continue
        with collecting(found):
            given[name] = _mel_from_yaml(name, value) if name.startswith("mel.") else value
    raise_all(found)
    return given


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses two equal keys; YAML's own silently uses the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _flatten(tree: dict[str, Any], known: set[str], path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if value is None and any(n.startswith(f"{name}.") for n in known):
            continue  # an empty level
        if isinstance(value, dict) and name not in known:
            yield from _flatten(value, known, path, f"{name}.")
        else:
            yield name, value


def _mel_from_yaml(name: str, value: Any) -> Any:
    # YAML 1.1 reads 1e-6 as a text; the option's own parser reads it as a number.
    return mel_options.parse_option(name.removeprefix("mel."), value) if isinstance(value, str) else value


def _read_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """`--name value...`, `--name=value` and bare `--switch` tokens, by dotted name."""
    known, given, found, i = _known(), {}, [], 0
    actions = flags.actions()
    while i < len(arguments):
        token = arguments[i]
        i += 1
        if not token.startswith("--"):
            raise UserError(f"found {token!r}, expected a flag such as --data.max_len")
        name, equals, rest = token.removeprefix("--").partition("=")
        values = [rest] if equals else []
        while not equals and i < len(arguments) and not re.match(r"--[A-Za-z]", arguments[i]):
            values.append(arguments[i])
            i += 1
        if name not in known:
            found.append(f"unknown flag --{name}{_nearest(name, known)}")
            continue
        with collecting(found):
            given[name] = _argument(name, values, actions)
    raise_all(found)
    return given


def _argument(name: str, values: list[str], actions: dict[str, argparse.Action]) -> Any:
    if not name.startswith("mel."):
        if flags.is_switch(actions[name]):
            if len(values) > 1:
                raise UserError(f"--{name}: found {' '.join(values)!r}, expected true or false, or nothing")
            return mel_options.parse_bool(f"--{name}", values[0]) if values else True
        if not values and actions[name].nargs != "*":
            raise UserError(f"--{name}: found no value")
        if len(values) > 1 and actions[name].nargs is None:
            raise UserError(f"--{name}: found {' '.join(values)!r}, expected one value")
        return values if actions[name].nargs else values[0]
    option = name.removeprefix("mel.")
    if not values and mel_options.is_switch(option):
        return True
    if len(values) != 1:
        raise UserError(f"--{name}: found {len(values)} values, expected one")
    return mel_options.parse_option(option, values[0])


def _known() -> set[str]:
    return set(flags.actions()) | {f"mel.{name}" for name in mel_options.option_names()}


def _nearest(name: str, known: set[str]) -> str:
    # A bare `max_len` is most likely the end of a dotted name; then the closest spelling.
    ends = sorted(n for n in known if n.endswith(f".{name}"))
    close = ends[:1] or difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "; see --help and --help-upstream"
