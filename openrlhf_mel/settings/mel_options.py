"""Every `--mel.*` option: default, range, one line each.

Pure: imports neither torch nor OpenRLHF. Section numbers are those of the paper (arXiv 2602.10224).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings.paradigms import Algorithm

Runtime = Literal["auto", "cuda", "cpu"]
Device = Literal["cuda", "cpu"]  # what a run finds on a machine
Construction = Literal["streaming", "deferred"]
BEFORE_DEFERRAL: Construction = "streaming"  # of runs that began before there was a choice
CPUEngine = Literal["auto", "vllm", "transformers"]


def option(
    default: Any, text: str, low: float | None = None, high: float | None = None, above: float | None = None
) -> Any:
    """A field with its help line and the range of its value: `low <= value <= high`, or `value > above`."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "above": above})


@dataclass(frozen=True)
class MELConfig:
    """The options of Meta-Experience Learning. Refuses values out of range, naming the flag."""

    enable: bool = option(True, "learn from meta-experiences; false is the plain baseline")
    algorithm: Algorithm = option(
        "grpo", "the policy objective: its estimator, loss and aggregation, its defaults of clip and KL"
    )
    runtime: Runtime = option("auto", "where to run; auto: cuda where there is one, else cpu")
    run_dir: str | None = option(None, "folder of everything that the run writes; none: runs/<name of the YAML>")
    seed: int = option(0, "seed of the choice of pairs and of the shuffled control", low=0)

    nll_coef: float = option(1.0, "coefficient of R_MEL in the joint objective (Eq. 9)", low=0.0)
    nll_schedule: Literal["constant", "linear", "cosine"] = option(
        "constant", "how the coefficient goes from nll_coef, after the warm-up, to nll_end_coef; constant: it stays"
    )
    nll_warmup_steps: int = option(0, "steps (rollouts) of warm-up, at nll_coef * step / (nll_warmup_steps + 1)", low=0)
    nll_end_coef: float = option(0.0, "coefficient at the end of a linear or cosine schedule", low=0.0)
    nll_end_step: int | None = option(
        None, "step from which a linear or cosine schedule is at nll_end_coef; none: the run's last", low=1
    )
    nll_mean_over: Literal["experiences", "questions"] = option(
        "experiences",
        "outer mean of the NLL: over kept experiences, or over all questions, one without an M counting 0",
    )
    context: Literal["retrospective", "question"] = option(
        "retrospective", "what stands before M in the NLL: [I, x, y+, y-] (Eq. 7), or the question alone"
    )
    experience: Literal["own", "shuffled"] = option(
        "own", "which M a question learns: its own, or another question's (a control)"
    )

    pairs_per_question: int = option(1, "contrastive pairs drawn from a mixed group", low=1)
    pair_selection: Literal["uniform", "shortest", "common_prefix"] = option(
        "uniform", "how pairs are drawn: uniformly, the shortest, or those that agree the longest"
    )
    max_new_tokens: int | None = option(None, "maximum tokens of M; none: a quarter of data.max_len", low=1)
    temperature: float = option(1.0, "sampling temperature of M", low=0.0)
    top_p: float = option(1.0, "top-p of M", above=0.0, high=1.0)
    construction: Construction | None = option(
        None,
        "what a rollout does with Ms unfinished at its last response: wait for them, or go on with them in the next one; "
        "none: deferred, where it is possible",
    )
    max_carries: int = option(1, "how often a deferred M may go on in a next rollout; then it is waited for", low=1)
    validation: Literal["replay", "none"] = option("replay", "keep M only if a replay with it succeeds (Eq. 6)")
    replays: int = option(1, "replays of each M", low=1)
    replays_required: int = option(1, "replays that must succeed for M to be kept", low=1)
    replay_max_new_tokens: int | None = option(
        None, "maximum tokens of a replay; none: rollout.max_new_tokens, at most half of data.max_len", low=1
    )
    replay_temperature: float = option(1.0, "sampling temperature of a replay", low=0.0)
    leak_filter: bool = option(False, "drop an M that holds the reference answer")
    correct_at: float = option(1.0, "raw score from which a response counts as correct")

    template_dir: str | None = option(None, "folder with question.txt, analysis.txt, replay.txt and sections.yaml")
    warn_after_empty_steps: int = option(5, "warn after this many steps in a row without a kept M", low=1)
    guard_window: int = option(
        10,
        "steps in the two windows that the collapse guard compares, the last and the run's first; 0: no guard",
        low=0,
    )
    measure_mismatch: bool = option(
        True, "compare the engine's log-probs of a rollout with the policy's, each step (rollout/logprob_diff_mean)"
    )
    trust_remote_code: bool = option(False, "allow models and data with Python code of their own")
    cpu_engine: CPUEngine = option(
        "auto", "rollout engine of the CPU runtime; auto: vLLM where its CPU build is installed, else transformers"
    )
    cpu_dtype: Literal["fp32", "bf16"] = option(
        "fp32", "number format of the CPU runtime; bf16, as on GPUs, is ten times slower on a CPU without AVX-512"
    )

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        found: list[str] = []
        for f in dataclasses.fields(self):
            try:
                _check(f"--mel.{f.name}", getattr(self, f.name), hints[f.name], f.metadata)
            except UserError as error:
                found.extend(error.args)
        if found:
            raise UserError(*found)
        if self.replays_required > self.replays:
            raise UserError(
                f"--mel.replays_required: found {self.replays_required}, expected at most --mel.replays ({self.replays})"
            )
        # A constant schedule ignores the options of its end, so that a run can switch `nll_schedule` alone.
        full = self.nll_warmup_steps + 1
        if self.nll_schedule != "constant" and self.nll_end_step is not None and self.nll_end_step <= full:
            raise UserError(
                f"--mel.nll_end_step: found {self.nll_end_step}, expected more than {full}, "
                f"the first step at nll_coef after --mel.nll_warmup_steps {self.nll_warmup_steps}"
            )


def _check(flag: str, value: Any, hint: Any, limits: Any) -> None:
    base, optional = _base(hint)
    if value is None and optional:
        return
    if get_origin(base) is Literal:
        if value not in get_args(base):
            raise UserError(f"{flag}: found {value!r}, expected one of {', '.join(get_args(base))}")
        return
    number = base is float and isinstance(value, int) and not isinstance(value, bool)
    if not (number or type(value) is base):
        raise UserError(f"{flag}: found {value!r}, expected {_type_name(base)}")
    if base is float and not math.isfinite(value):
        raise UserError(f"{flag}: found {value}, expected a finite number")
    low, high, above = limits["low"], limits["high"], limits["above"]
    if low is not None and not value >= low:
        raise UserError(f"{flag}: found {value}, expected at least {low}")
    if high is not None and not value <= high:
        raise UserError(f"{flag}: found {value}, expected at most {high}")
    if above is not None and not value > above:
        raise UserError(f"{flag}: found {value}, expected more than {above}")


def _base(hint: Any) -> tuple[Any, bool]:
    """An option's type without its `| None`, and whether it had one."""
    optional = get_origin(hint) is not Literal and type(None) in get_args(hint)
    return (next(a for a in get_args(hint) if a is not type(None)) if optional else hint), optional


def _type_name(base: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[base]


def parse_option(name: str, text: str) -> Any:
    """The value of `--mel.<name> <text>` from the command line, in the option's own type.

    Raises:
        UserError: `text` is not a value of that type.
    """
    base, optional = _base(get_type_hints(MELConfig)[name])
    if optional and text.lower() in ("null", "none"):
        return None
    if base is bool:
        return parse_bool(f"--mel.{name}", text)
    try:
        return base(text) if base in (int, float) else text
    except ValueError:
        raise UserError(f"--mel.{name}: found {text!r}, expected {_type_name(base)}") from None


def is_switch(name: str) -> bool:
    """Whether `--mel.<name>` may stand without a value, meaning true."""
    return get_type_hints(MELConfig)[name] is bool


def parse_bool(flag: str, text: str) -> bool:
    """`true` or `false` (any case). Raises UserError naming `flag` otherwise."""
    if text.lower() not in ("true", "false"):
        raise UserError(f"{flag}: found {text!r}, expected true or false")
    return text.lower() == "true"


def option_names() -> list[str]:
    """Names of the `--mel.*` options, in the order in which `--help` shows them."""
    return [f.name for f in dataclasses.fields(MELConfig)]


def of_earlier_versions() -> dict[str, Any]:
    """What a run of a version without an option did: its default, by the option's dotted name (`mel.seed`)."""
    return {f"mel.{f.name}": f.default for f in dataclasses.fields(MELConfig)} | {"mel.construction": BEFORE_DEFERRAL}


def help_lines() -> str:
    """One line for each `--mel.*` option: name, help, choices or range, and default."""
    hints = get_type_hints(MELConfig)
    lines = []
    for f in dataclasses.fields(MELConfig):
        choices = get_args(hints[f.name]) if get_origin(hints[f.name]) is Literal else ()
        allowed = " | ".join(choices) or _range(f.metadata)
        tail = f" [{allowed}]" if allowed else ""
        lines.append(f"  --mel.{f.name:<24}{f.metadata['help']}{tail} (default: {_shown(f.default)})")
    return "\n".join(lines)


def _range(metadata: Mapping[str, Any]) -> str:
    words = {"above": "above", "low": "at least", "high": "at most"}
    return ", ".join(f"{said} {metadata[key]:g}" for key, said in words.items() if metadata[key] is not None)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_lengths(config: MELConfig, max_len: int, rollout_max_new_tokens: int | None) -> MELConfig:
    """`config` with omitted lengths filled in, such that they fit `data.max_len` (tokens).

    Raises:
        UserError: a given length leaves no room for a prompt.
    """
    replay = config.replay_max_new_tokens or max(1, min(rollout_max_new_tokens or max_len, max_len // 2))
    filled = dataclasses.replace(
        config, max_new_tokens=config.max_new_tokens or max(1, max_len // 4), replay_max_new_tokens=replay
    )
    for name in ("max_new_tokens", "replay_max_new_tokens"):
        if getattr(filled, name) >= max_len:
            raise UserError(
                f"--mel.{name}: found {getattr(filled, name)}, expected less than --data.max_len ({max_len}), "
                "which holds the prompt as well"
            )
    return filled
