"""A YAML file and flags -> the resolved settings of a run.

The YAML nests upstream's dotted names and `mel:`; the command line wins over it; what neither gives is set by
`mel.algorithm`, by the run directory and by the runtime, and else by upstream.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from openrlhf_mel import config
from openrlhf_mel.config import MELConfig
from openrlhf_mel.errors import UserError
from openrlhf_mel.upstream import flags

# What may name a local path, and what always does.
_PATHS = (
    "actor.model_name_or_path",
    "data.prompt_dataset",
    "eval.dataset",
    "reward.model_name_or_path",
    "reward.remote_url",
    "train.agent_func_path",
)
_OUTPUTS = ("ckpt.path", "ckpt.output_dir", "logger.tensorboard_dir")
# The least that makes sense; below it upstream fails in a worker, late.
LEAST = {
    "data.max_len": 2,
    "data.max_samples": 1,
    "rollout.batch_size": 1,
    "rollout.n_samples_per_prompt": 1,
    "rollout.max_new_tokens": 1,
    "rollout.micro_batch_size": 1,
    "train.batch_size": 1,
    "train.micro_batch_size": 1,
    "train.max_epochs": 1,
    "train.num_episodes": 1,
    "train.max_tokens_per_gpu": 1,
    "actor.num_nodes": 1,
    "actor.num_gpus_per_node": 1,
    "vllm.num_engines": 1,
    "vllm.tensor_parallel_size": 1,
    "logger.logging_steps": 1,
}
AGENT_EXECUTOR = str(Path(__file__).with_name("agent_executor.py"))
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
    """What a run will do.

    Attributes:
        mel: the `--mel.*` options, lengths filled in and `runtime` decided.
        upstream: every upstream flag with its value, by dotted name.
        argv: upstream's command line that gives these values.
        run_dir: the folder of everything that the run writes.
    """

    mel: MELConfig
    upstream: dict[str, Any]
    argv: list[str]
    run_dir: Path

    def as_dict(self) -> dict[str, Any]:
        """Flat, JSON-ready: upstream's dotted names and `mel.<option>`."""
        mel = {f"mel.{name}": getattr(self.mel, name) for name in config.option_names()}
        return dict(sorted((self.upstream | mel).items()))


def resolve(
    config_path: str | None,
    arguments: Sequence[str],
    *,
    device: str | None = None,
    contradictions: list[str] | None = None,
) -> Settings:
    """The settings of `--config config_path` and the command line's other `arguments`.

    Args:
        device: `cuda` or `cpu`, what the run will find (then `auto` means it, and `mel.runtime: cuda` is taken at its
            word); None: this machine is asked.
        contradictions: takes what contradicts, a message each, in the place of a UserError.

    Raises:
        UserError: unknown or misspelt keys, values out of range, contradictions, missing ones; all that are of a kind.
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
    upstream_given = {n: v for n, v in given.items() if not n.startswith("mel.")}
    if missing := [f"--{n}" for n in REQUIRED if upstream_given.get(n) is None]:
        found.append(
            f"{config_path or 'command line'}: {', '.join(missing)} not given; set it in the YAML or as a flag"
        )
    name = Path(config_path).stem if config_path else "run"
    run_dir = Path(os.path.abspath(mel.run_dir or Path("runs") / name))
    mel = replace(mel, run_dir=str(run_dir), template_dir=_absolute(mel.template_dir))
    chosen = _defaults(mel, upstream_given, run_dir) | upstream_given
    if mel.algorithm == "rft":  # has no estimator; upstream's `gae` would bring a critic
        chosen["algo.advantage.estimator"] = config.algorithm_flags("rft")["algo.advantage.estimator"]
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
        found.extend(_contradictions(mel, values, upstream_given))
    with _noting(found):
        mel = config.with_lengths(mel, values["data.max_len"], values["rollout.max_new_tokens"])
    if contradictions is None:
        _refuse(found)
    else:
        contradictions += found
    return Settings(mel, values, argv, run_dir)


@contextlib.contextmanager
def _noting(found: list[str]) -> Iterator[None]:
    """Add what a UserError says to `found`, and go on."""
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
    """YAML's safe loader, which does not let the last of two equal keys win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _absolute(value: str | None) -> str | None:
    """Local paths of a (comma-separated) value made absolute: workers may run in another folder."""
    if not value:
        return value
    parts = [part.strip() for part in value.split(",")]
    return ",".join(os.path.abspath(part) if os.path.exists(part) else part for part in parts)


def _flatten(tree: dict, known: set[str], path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if value is None and any(n.startswith(f"{name}.") for n in known):
            continue  # a level that was left empty
        if isinstance(value, dict) and name not in known:
            yield from _flatten(value, known, path, f"{name}.")
        else:
            yield name, value


def _mel_from_yaml(name: str, value: Any) -> Any:
    # YAML 1.1 reads 1e-6 as a text; the option's own parser knows better.
    return config.parse_option(name.removeprefix("mel."), value) if isinstance(value, str) else value


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


def _argument(name: str, values: list[str], actions: dict) -> Any:
    if not name.startswith("mel."):
        if flags.is_switch(actions[name]):
            if len(values) > 1:
                raise UserError(f"--{name}: found {' '.join(values)!r}, expected true or false, or nothing")
            return config.parse_bool(f"--{name}", values[0]) if values else True
        if not values and actions[name].nargs != "*":
            raise UserError(f"--{name}: found no value")
        if len(values) > 1 and actions[name].nargs is None:
            raise UserError(f"--{name}: found {' '.join(values)!r}, expected one value")
        return values if actions[name].nargs else values[0]
    option = name.removeprefix("mel.")
    if not values and config.MELConfig.__dataclass_fields__[option].type == "bool":
        return True
    if len(values) != 1:
        raise UserError(f"--{name}: found {len(values)} values, expected one")
    return config.parse_option(option, values[0])


def _known() -> set[str]:
    return set(flags.actions()) | {f"mel.{name}" for name in config.option_names()}


def _nearest(name: str, known: set[str]) -> str:
    # A bare `max_len` is most likely the end of a dotted name; then the closest spelling.
    ends = sorted(n for n in known if n.endswith(f".{name}"))
    close = ends[:1] or difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "; see --help and --help-upstream"


def here() -> str:
    """`cuda` or `cpu`: what a run finds on this machine."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _runtime(asked: str, device: str | None) -> str:
    """`cuda` or `cpu`. A run that asked for CUDA never falls back in silence."""
    if asked == "cpu" or (asked == "cuda" and device):
        return asked
    found = device or here()
    if asked == "cuda" and found == "cpu":
        raise UserError("--mel.runtime cuda: torch sees no CUDA device; check the allocation, or use --mel.runtime cpu")
    return found


def _defaults(mel: MELConfig, given: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        **config.algorithm_flags(mel.algorithm),
        "ckpt.path": str(run_dir / "checkpoints"),
        "ckpt.output_dir": str(run_dir / "model.partial"),
        "ckpt.best_metric_key": "none",  # upstream's automatic choice follows a test set
        "logger.tensorboard_dir": str(run_dir / "tensorboard"),
    }
    if not given.get("reward.remote_url") and not given.get("reward.model_name_or_path"):
        chosen["train.agent_func_path"] = AGENT_EXECUTOR
    if given.get("vllm.num_engines") is None:
        chosen["vllm.num_engines"] = 1
    if mel.runtime == "cpu":
        chosen |= {
            "actor.num_gpus_per_node": 1,
            "vllm.sync_backend": "gloo",
            "ds.attn_implementation": "eager",
        }
    return chosen


def _contradictions(mel: MELConfig, values: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    wanted = config.algorithm_flags(mel.algorithm)
    estimator = given.get("algo.advantage.estimator")
    if estimator is not None and estimator != wanted["algo.advantage.estimator"] and mel.algorithm != "rft":
        yield (
            f"--algo.advantage.estimator {estimator} contradicts --mel.algorithm {mel.algorithm}, "
            f"which is {wanted['algo.advantage.estimator']}; leave one of them out"
        )
    if values["logger.wandb.key"] not in (None, "env"):
        yield (
            "--logger.wandb.key: a key on the command line or in a file can be read by others; "
            "export WANDB_API_KEY and set logger.wandb.key to `env`"
        )
    if values["logger.wandb.key"] == "env" and not os.environ.get("WANDB_API_KEY"):
        yield "--logger.wandb.key env: WANDB_API_KEY is not set; export it"
    if mel.runtime == "cuda" and mel.cpu_dtype != "bf16":
        yield "--mel.cpu_dtype fp32: only for --mel.runtime cpu"
    low = {n: least for n, least in LEAST.items() if values[n] is not None and values[n] < least}
    for name, least in low.items():
        yield f"--{name}: found {values[name]}, expected at least {least}"
    for name in ("ckpt.save_steps", "eval.steps"):
        if values[name] == 0 or values[name] < -1:
            yield f"--{name}: found {values[name]}, expected at least 1, or -1 for never"
    if low:
        return  # the rest reckons with them
    group, prompts = values["rollout.n_samples_per_prompt"], values["rollout.batch_size"]
    samples = group * prompts
    if values["train.batch_size"] > samples:
        yield (
            f"--train.batch_size {values['train.batch_size']}: expected at most --rollout.batch_size x "
            f"--rollout.n_samples_per_prompt ({prompts} x {group} = {samples}); OpenRLHF counts samples here"
        )
    if mel.algorithm in ("grpo", "reinforce++-baseline") and group < 2:
        yield f"--rollout.n_samples_per_prompt {group}: {mel.algorithm} compares a group, expected at least 2"
    gpus = values["actor.num_nodes"] * values["actor.num_gpus_per_node"]
    window = values["train.micro_batch_size"] * gpus
    window //= math.gcd(window, values["ds.ring_attn_size"] * values["ds.tensor_parallel_size"])
    if not values["train.dynamic_batch_enable"] and values["train.batch_size"] % window:
        yield (
            f"--train.batch_size {values['train.batch_size']}: expected a multiple of --train.micro_batch_size x "
            f"the policy's GPUs ({values['train.micro_batch_size']} x {gpus})"
        )
    if (values["rollout.max_new_tokens"] or 0) >= values["data.max_len"]:
        yield (
            f"--rollout.max_new_tokens {values['rollout.max_new_tokens']}: expected less than --data.max_len "
            f"({values['data.max_len']}), which holds the prompt as well"
        )
    for name in ("data.prompt_dataset", "eval.dataset"):
        scripts = [part for part in (values[name] or "").split(",") if part.split("@")[0].strip().endswith(".py")]
        if scripts and not mel.trust_remote_code:
            yield f"--{name} {scripts[0]}: a Python script would be run; --mel.trust_remote_code allows it"
    if values["ds.zero_stage"] not in (1, 2, 3):
        yield f"--ds.zero_stage {values['ds.zero_stage']}: expected 1, 2 or 3"
    yield from _unsupported(mel, values)


def _unsupported(mel: MELConfig, values: dict[str, Any]) -> Iterator[str]:
    """What the joint objective does not hold for yet, or the CPU runtime lacks, is refused."""
    if values["train.async_enable"]:
        yield "--train.async_enable: not supported (the asynchronous trainer samples in an actor of its own)"
    if mel.algorithm == "rft" and (values["actor.entropy_coef"] is not None or values["algo.kl.use_loss"]):
        yield (
            "--mel.algorithm rft: not supported with --actor.entropy_coef or --algo.kl.use_loss, which average over "
            "all responses"
        )
    if mel.enable or mel.algorithm == "rft":
        for flag, reason in {
            "data.max_images_per_prompt": "meta-experiences are text",
            "reward.model_name_or_path": "a reward model scores after sampling; use --reward.remote_url",
        }.items():
            if values[flag]:
                yield f"--{flag}: not supported with meta-experiences or rft ({reason})"
        for flag in ("ds.ring_attn_size", "ds.tensor_parallel_size"):
            if values[flag] > 1:
                yield f"--{flag}: not supported with meta-experiences or rft (M's rows are not split over it)"
    if mel.runtime == "cpu":
        for flag in (
            "ds.adam_offload",
            "ds.load_in_4bit",
            "ds.use_liger_kernel",
            "ds.deepcompile",
            "ds.lora.rank",
            "train.enable_ema",
            "algo.kl.init_coef",
            "reward.model_name_or_path",
        ):
            if values[flag]:
                yield f"--{flag}: needs a GPU; not available with --mel.runtime cpu"
