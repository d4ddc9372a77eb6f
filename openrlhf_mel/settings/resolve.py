"""A YAML file and flags -> the resolved settings of a run.

The YAML nests upstream's dotted names and `mel:`. The command line wins over it. A value that neither gives is set by
`mel.algorithm`, by the run directory, by the runtime, or else by upstream.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import flags, mel_options, vllm_build
from openrlhf_mel.settings.contradictions import find_contradictions
from openrlhf_mel.settings.mel_options import CPUEngine, Device, MELConfig, Runtime
from openrlhf_mel.settings.paradigms import PARADIGMS

# Flags that may name a local path, and flags that always do.
_PATHS = (
    "actor.model_name_or_path",
    "data.prompt_dataset",
    "eval.dataset",
    "reward.model_name_or_path",
    "reward.remote_url",
    "train.agent_func_path",
)
_OUTPUTS = ("ckpt.path", "ckpt.output_dir", "logger.tensorboard_dir")
REQUIRED = (
    "actor.model_name_or_path",
    "data.prompt_dataset",
    "data.label_key",
    "rollout.batch_size",
    "rollout.n_samples_per_prompt",
    "train.batch_size",
)


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        mel: the `--mel.*` options, lengths filled in and `runtime` decided.
        upstream: every upstream flag with its value, by dotted name.
        argv: upstream's command line with these values.
        run_dir: the folder of everything that the run writes.
    """

    mel: MELConfig
    upstream: dict[str, Any]
    argv: list[str]
    run_dir: Path

    def as_dict(self) -> dict[str, Any]:
        """Flat, JSON-ready: upstream's dotted names and `mel.<option>`."""
        mel = {f"mel.{name}": getattr(self.mel, name) for name in mel_options.option_names()}
        return dict(sorted((self.upstream | mel).items()))


def resolve(
    config_path: str | None,
    arguments: Sequence[str],
    *,
    device: Device | None = None,
    agent_executor: str | None = None,
    contradictions: list[str] | None = None,
) -> Settings:
    """The settings of `--config config_path` and the command line's other `arguments`.

    Args:
        device: `cuda` or `cpu`, the runtime's device for `auto` (`mel.runtime: cuda` is then not checked against this
            machine); None: this machine is checked.
        agent_executor: the file with the verifier, for OpenRLHF; a reward function or model of the user's wins.
        contradictions: a list for the messages of contradictions; without it they raise a UserError.

    Raises:
        UserError: unknown or misspelt keys, values out of range, contradictions, missing keys; all of one kind at once.
    """
    found: list[str] = []
    given: dict[str, Any] = {}
    with _noting(found):
        given = _read_yaml(config_path) if config_path else {}
    with _noting(found):
        given = given | _read_arguments(arguments)
    _refuse(found)
    # `key: null` leaves a key to its default, here as upstream.
    given = {name: value for name, value in given.items() if value is not None}
    mel = MELConfig()
    with _noting(found):
        mel = MELConfig(**{n.removeprefix("mel."): v for n, v in given.items() if n.startswith("mel.")})
        mel = replace(mel, runtime=_runtime(mel.runtime, device))
    with _noting(found):
        mel = replace(mel, cpu_engine=_cpu_engine(mel))
    upstream_given = {n: v for n, v in given.items() if not n.startswith("mel.")}
    if missing := [f"--{n}" for n in REQUIRED if upstream_given.get(n) is None]:
        found.append(
            f"{config_path or 'command line'}: {', '.join(missing)} not given; set it in the YAML or as a flag"
        )
    name = Path(config_path).stem if config_path else "run"
    run_dir = Path(os.path.abspath(mel.run_dir or Path("runs") / name))
    mel = replace(mel, run_dir=str(run_dir), template_dir=_absolute(mel.template_dir))
    chosen = _defaults(mel, upstream_given, run_dir, agent_executor) | upstream_given
    argv: list[str] = []
    for flag, value in chosen.items():
        with _noting(found):
            if isinstance(value, str):
                value = os.path.abspath(value) if flag in _OUTPUTS else _absolute(value) if flag in _PATHS else value
            tokens = flags.to_argv(flag, value)
            flags.parser().parse_args(tokens)
            argv += tokens
    _refuse(found)
    values = vars(flags.parser().parse_args(argv))
    with _noting(found):
        found.extend(find_contradictions(mel, values, upstream_given))
    with _noting(found):
        mel = mel_options.with_lengths(mel, values["data.max_len"], values["rollout.max_new_tokens"])
    if contradictions is None:
        _refuse(found)
    else:
        contradictions += found
    return Settings(mel, values, argv, run_dir)


@contextlib.contextmanager
def _noting(found: list[str]) -> Iterator[None]:
    """Append the messages of a UserError to `found` and continue."""
    try:
        yield
    except UserError as error:
        found.extend(error.args)


def _refuse(found: list[str]) -> None:
    if found:
        raise UserError(*found)


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
        with _noting(found):
            given[name] = _mel_from_yaml(name, value) if name.startswith("mel.") else value
    _refuse(found)
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


def _absolute(value: str | None) -> str | None:
    """The value, which may be comma-separated, with local paths made absolute: workers may run in another folder."""
    if not value:
        return value
    parts = [part.strip() for part in value.split(",")]
    return ",".join(os.path.abspath(part) if os.path.exists(part) else part for part in parts)


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
        with _noting(found):
            given[name] = _argument(name, values, actions)
    _refuse(found)
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


def here() -> Device:
    """`cuda` or `cpu`: the device of this machine."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _runtime(asked: Runtime, device: Device | None) -> Runtime:
    """`cuda` or `cpu`. A run that asked for CUDA never falls back silently."""
    if asked == "cpu" or (asked == "cuda" and device):
        return asked
    found = device or here()
    if asked == "cuda" and found == "cpu":
        raise UserError("--mel.runtime cuda: torch sees no CUDA device; check the allocation, or use --mel.runtime cpu")
    return found


def _cpu_engine(mel: MELConfig) -> CPUEngine:
    """The engine that `auto` means on the CPU runtime; on CUDA, which ignores the option, its unchanged value."""
    if mel.runtime != "cpu" or mel.cpu_engine not in ("auto", "vllm"):
        return mel.cpu_engine
    build = vllm_build.installed()
    if build and build.cpu:
        vllm_build.check(build)
        return "vllm"
    if mel.cpu_engine == "vllm":
        found = f"{build}, which is not built for CPUs, is" if build else "no vLLM is"
        raise UserError(
            f"--mel.cpu_engine vllm: {found} installed; run `make setup`, or use --mel.cpu_engine transformers"
        )
    return "transformers"


def _defaults(mel: MELConfig, given: dict[str, Any], run_dir: Path, agent_executor: str | None) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        **PARADIGMS[mel.algorithm].flags(given),
        "ckpt.path": str(run_dir / "checkpoints"),
        "ckpt.output_dir": str(run_dir / "model.partial"),
        "ckpt.best_metric_key": "none",  # upstream's automatic choice follows a test set
        "logger.tensorboard_dir": str(run_dir / "tensorboard"),
    }
    if agent_executor and not given.get("reward.remote_url") and not given.get("reward.model_name_or_path"):
        chosen["train.agent_func_path"] = agent_executor
    if given.get("vllm.num_engines") is None:
        chosen["vllm.num_engines"] = 1
    if mel.runtime == "cpu":
        chosen |= {
            "actor.num_gpus_per_node": 1,
            "vllm.sync_backend": "gloo",
            "ds.attn_implementation": "eager",
        }
    return chosen
