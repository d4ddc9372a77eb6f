"""A YAML file and flags -> the resolved settings of a run.

The YAML nests upstream's dotted names and `mel:`; the command line wins over it; what neither gives is set by
`mel.algorithm`, by the run directory and by the runtime, and else by upstream.
"""

from __future__ import annotations

import difflib
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
        return dict(sorted((self.upstream | mel | {"mel.run_dir": str(self.run_dir)}).items()))


def resolve(config_path: str | None, arguments: Sequence[str]) -> Settings:
    """The settings of `--config config_path` and the command line's other `arguments`.

    Raises:
        UserError: an unknown or misspelt key, a value out of range, a contradiction, or a missing one.
    """
    given = _read_yaml(config_path) if config_path else {}
    given |= _read_arguments(arguments)
    mel = MELConfig(**{n.removeprefix("mel."): v for n, v in given.items() if n.startswith("mel.")})
    mel = replace(mel, runtime=_runtime(mel.runtime))
    upstream_given = {n: v for n, v in given.items() if not n.startswith("mel.")}
    if missing := [f"--{n}" for n in REQUIRED if upstream_given.get(n) is None]:
        raise UserError(
            f"{config_path or 'command line'}: {', '.join(missing)} not given; set it in the YAML or as a flag"
        )
    run_dir = Path(mel.run_dir or Path("runs") / (Path(config_path).stem if config_path else "run"))
    chosen = _defaults(mel, upstream_given, run_dir) | upstream_given
    argv = [token for name, value in chosen.items() for token in flags.to_argv(name, value)]
    values = vars(flags.parser().parse_args(argv))
    _refuse_contradictions(mel, values, upstream_given)
    mel = config.with_lengths(mel, values["data.max_len"], values["rollout.max_new_tokens"])
    return Settings(mel, values, argv, run_dir)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; expected a YAML file") from None
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise UserError(f"{path}: not YAML{f' at line {where.line + 1}' if where else ''}: {error.problem}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: found {type(tree).__name__}, expected keys such as `data:` and `mel:`")
    known = _known()
    given = {}
    for name, value in _flatten(tree, known, path):
        if name not in known:
            raise UserError(f"{path}: unknown key {name!r}{_nearest(name, known)}")
        given[name] = _mel_from_yaml(name, value) if name.startswith("mel.") else value
    return given


def _flatten(tree: dict, known: set[str], path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in known:
            yield from _flatten(value, known, path, f"{name}.")
        else:
            yield name, value


def _mel_from_yaml(name: str, value: Any) -> Any:
    # YAML 1.1 reads 1e-6 as a text; the option's own parser knows better.
    return config.parse_option(name.removeprefix("mel."), value) if isinstance(value, str) else value


def _read_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """`--name value...`, `--name=value` and bare `--switch` tokens, by dotted name."""
    known, given, i = _known(), {}, 0
    actions = flags.actions()
    while i < len(arguments):
        token = arguments[i]
        i += 1
        if not token.startswith("--"):
            raise UserError(f"found {token!r}, expected a flag such as --data.max_len")
        name, equals, rest = token.removeprefix("--").partition("=")
        if name not in known:
            raise UserError(f"unknown flag --{name}{_nearest(name, known)}")
        values = [rest] if equals else []
        while not equals and i < len(arguments) and not re.match(r"--[A-Za-z]", arguments[i]):
            values.append(arguments[i])
            i += 1
        given[name] = _argument(name, values, actions)
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


def _runtime(asked: str) -> str:
    """`cuda` or `cpu`. A run that asked for CUDA never falls back in silence."""
    if asked == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise UserError("--mel.runtime cuda: torch sees no CUDA device; check the allocation, or use --mel.runtime cpu")
    return "cpu"


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


def _refuse_contradictions(mel: MELConfig, values: dict[str, Any], given: dict[str, Any]) -> None:
    wanted = config.algorithm_flags(mel.algorithm)
    estimator = given.get("algo.advantage.estimator")
    if estimator is not None and estimator != wanted["algo.advantage.estimator"] and mel.algorithm != "rft":
        raise UserError(
            f"--algo.advantage.estimator {estimator} contradicts --mel.algorithm {mel.algorithm}, "
            f"which is {wanted['algo.advantage.estimator']}; leave one of them out"
        )
    if values["logger.wandb.key"] not in (None, "env"):
        raise UserError(
            "--logger.wandb.key: a key on the command line or in a file can be read by others; "
            "export WANDB_API_KEY and set logger.wandb.key to `env`"
        )
    if values["logger.wandb.key"] == "env" and not os.environ.get("WANDB_API_KEY"):
        raise UserError("--logger.wandb.key env: WANDB_API_KEY is not set; export it")
    if mel.runtime == "cuda" and mel.cpu_dtype != "bf16":
        raise UserError("--mel.cpu_dtype fp32: only for --mel.runtime cpu")
    group, prompts = values["rollout.n_samples_per_prompt"], values["rollout.batch_size"]
    if min(group, prompts, values["train.batch_size"]) < 1:
        raise UserError("--rollout.batch_size, --rollout.n_samples_per_prompt, --train.batch_size: expected at least 1")
    samples = group * prompts
    if values["train.batch_size"] > samples:
        raise UserError(
            f"--train.batch_size {values['train.batch_size']}: expected at most --rollout.batch_size x "
            f"--rollout.n_samples_per_prompt ({prompts} x {group} = {samples}); OpenRLHF counts samples here"
        )
    if mel.algorithm == "grpo" and group < 2:
        raise UserError(f"--rollout.n_samples_per_prompt {group}: grpo compares a group, expected at least 2")
    if (values["rollout.max_new_tokens"] or 0) >= values["data.max_len"]:
        raise UserError(
            f"--rollout.max_new_tokens {values['rollout.max_new_tokens']}: expected less than --data.max_len "
            f"({values['data.max_len']}), which holds the prompt as well"
        )
    if values["data.prompt_dataset"].endswith(".py") and not mel.trust_remote_code:
        raise UserError("--data.prompt_dataset: a Python script would be run; pass --mel.trust_remote_code to allow it")
    if values["ds.zero_stage"] not in (1, 2, 3):
        raise UserError(f"--ds.zero_stage {values['ds.zero_stage']}: expected 1, 2 or 3")
    _refuse_unsupported(mel, values)


def _refuse_unsupported(mel: MELConfig, values: dict[str, Any]) -> None:
    """What the joint objective does not hold for yet is refused, rather than computed wrongly."""
    if mel.enable or mel.algorithm == "rft":
        for flag, reason in {
            "train.async_enable": "the asynchronous trainer makes its samples in another actor",
            "data.max_images_per_prompt": "meta-experiences are text",
            "reward.model_name_or_path": "a reward model scores after sampling; use --reward.remote_url",
        }.items():
            if values[flag]:
                raise UserError(f"--{flag}: not supported with meta-experiences or rft ({reason})")
        for flag in ("ds.ring_attn_size", "ds.tensor_parallel_size"):
            if values[flag] > 1:
                raise UserError(
                    f"--{flag}: not supported with meta-experiences or rft (M's rows are not split over it)"
                )
    if mel.runtime == "cpu":
        for flag in (
            "ds.adam_offload",
            "ds.load_in_4bit",
            "ds.use_liger_kernel",
            "ds.deepcompile",
            "train.async_enable",
        ):
            if values[flag]:
                raise UserError(f"--{flag}: needs a GPU; not available with --mel.runtime cpu")
