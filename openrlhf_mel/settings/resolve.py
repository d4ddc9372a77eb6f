"""What the user gave -> the resolved settings of a run.

A value that is not given is set by `mel.algorithm`, by the run directory, by the runtime, or else by upstream.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openrlhf_mel.errors import UserError, collecting, raise_all
from openrlhf_mel.settings import flags, mel_options, vllm_build, yaml_and_flags
from openrlhf_mel.settings.contradictions import find_contradictions, undeferrable
from openrlhf_mel.settings.mel_options import BEFORE_DEFERRAL, Construction, CPUEngine, Device, MELConfig, Runtime
from openrlhf_mel.settings.objections import objections
from openrlhf_mel.settings.paradigms import ESTIMATOR, PARADIGMS, Algorithm

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
        warnings: what the user should know of these settings.
    """

    mel: MELConfig
    upstream: dict[str, Any]
    argv: list[str]
    run_dir: Path
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Flat, JSON-ready: upstream's dotted names and `mel.<option>`. Given back to `resolve`, the same settings."""
        mel = {f"mel.{name}": getattr(self.mel, name) for name in mel_options.option_names()}
        return dict(sorted((self.upstream | mel).items()))


def resolve(
    config_path: str | None,
    arguments: Sequence[str],
    *,
    device: Device | None = None,
    agent_executor: str | None = None,
    contradictions: list[str] | None = None,
    begun: Callable[[Path], Mapping[str, Any]] | None = None,
) -> Settings:
    """The settings of `--config config_path` and the command line's other `arguments`.

    Args:
        device: `cuda` or `cpu`, the runtime's device for `auto` (`mel.runtime: cuda` is then not checked against this
            machine); None: this machine is checked.
        agent_executor: the file with the verifier, for OpenRLHF; a reward function or model of the user's wins.
        contradictions: a list for the messages of contradictions; without it they raise a UserError.
        begun: gives the configuration of the run that a folder holds, empty where it holds none. A run that is resumed
            (`ckpt.load_enable`) goes on, with a warning, with what a new run of its paradigm is refused.

    Raises:
        UserError: unknown or misspelt keys, values out of range, contradictions, missing keys; all of one kind at once.
    """
    given = yaml_and_flags.read(config_path, arguments)
    found: list[str] = []
    mel = MELConfig()
    with collecting(found):
        mel = MELConfig(**{n.removeprefix("mel."): v for n, v in given.items() if n.startswith("mel.")})
        mel = replace(mel, runtime=_runtime(mel.runtime, device))
    with collecting(found):
        mel = replace(mel, cpu_engine=_cpu_engine(mel))
    upstream_given = {n: v for n, v in given.items() if not n.startswith("mel.")}
    if missing := [f"--{n}" for n in REQUIRED if upstream_given.get(n) is None]:
        found.append(
            f"{config_path or 'command line'}: {', '.join(missing)} not given; set it in the YAML or as a flag"
        )
    name = Path(config_path).stem if config_path else "run"
    run_dir = Path(os.path.abspath(mel.run_dir or Path("runs") / name))
    mel = replace(mel, run_dir=str(run_dir), template_dir=_absolute(mel.template_dir))
    before = begun(run_dir) if begun and upstream_given.get("ckpt.load_enable") is True else {}
    warnings = list(_overruled(mel.algorithm, upstream_given, before))
    chosen = _defaults(mel, upstream_given, run_dir, agent_executor) | upstream_given
    argv: list[str] = []
    for flag, value in chosen.items():
        with collecting(found):
            if isinstance(value, str):
                value = os.path.abspath(value) if flag in _OUTPUTS else _absolute(value) if flag in _PATHS else value
            tokens = [] if flags.is_default(flag, value) else flags.to_argv(flag, value)
            flags.parser().parse_args(tokens)
            argv += tokens
    raise_all(found)
    values = vars(flags.parser().parse_args(argv))
    mel = replace(mel, construction=mel.construction or _construction(mel, values, before))
    for objection in objections(mel.algorithm, values, upstream_given):
        if objection.advice is None:
            warnings.append(objection.fault)
        elif objection.flag in before and flags.same(before[objection.flag], values[objection.flag]):
            warnings.append(f"{objection.fault}; the run began with it, and goes on with it")
        else:
            found.append(f"{objection.fault}; {objection.advice}")
    with collecting(found):
        found.extend(find_contradictions(mel, values))
    with collecting(found):
        mel = mel_options.with_lengths(mel, values["data.max_len"], values["rollout.max_new_tokens"])
    if contradictions is None:
        raise_all(found)
    else:
        contradictions += found
    return Settings(mel, values, argv, run_dir, tuple(warnings))


def _construction(mel: MELConfig, values: dict[str, Any], before: Mapping[str, Any]) -> Construction:
    """The construction of a run that names none; one that is resumed goes on as it began."""
    if before:
        began: Construction = before.get("mel.construction", BEFORE_DEFERRAL)
        return began
    return "deferred" if mel.enable and not undeferrable(values) else "streaming"


def _overruled(algorithm: Algorithm, given: dict[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """Take out of `given` an estimator that earlier versions replaced silently, where a run that began so is resumed."""
    asked, own = given.get(ESTIMATOR), before.get(ESTIMATOR)
    if asked and own and PARADIGMS[algorithm].estimator is None and asked != own:
        del given[ESTIMATOR]
        yield f"--{ESTIMATOR} {asked}: --mel.algorithm {algorithm} ignores it; the run began without it, and goes on so"


def _absolute(value: str | None) -> str | None:
    """The value, which may be comma-separated, with local paths made absolute: workers may run in another folder."""
    if not value:
        return value
    parts = [part.strip() for part in value.split(",")]
    return ",".join(os.path.abspath(part) if os.path.exists(part) else part for part in parts)


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
