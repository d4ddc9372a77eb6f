"""Settings that a paradigm does not go with: what redefines it, what it ignores, what it lacks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from openrlhf_mel.settings import flags
from openrlhf_mel.settings.paradigms import (
    CLIP,
    CLIP_SIDES,
    CORRECTION,
    DUAL_CLIP,
    ENTROPY,
    KL_LOSS,
    OF_CORRECTION,
    PARADIGMS,
    Algorithm,
    Paradigm,
)


class Objection(NamedTuple):
    """What a setting does not go with.

    Attributes:
        flag: of the setting.
        fault: what is wrong with it.
        advice: what to do; None where it does no harm, so that the user is only told.
    """

    flag: str
    fault: str
    advice: str | None


_LEAVE = "leave it out"


def objections(algorithm: Algorithm, values: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Objection]:
    """Each setting that the paradigm does not go with.

    Args:
        values: every upstream flag with its value, by dotted name.
        given: the flags that the user gave.
    """
    paradigm, chosen = PARADIGMS[algorithm], f"--mel.algorithm {algorithm}"
    for flag in _redefined(paradigm, values, given):
        whose = f"{chosen}, whose {flag.split('.')[-1]} is {paradigm.defining[flag] or 'none'}"
        if flags.same(values[flag], paradigm.resolved(flag)):  # so it is in the run's own configuration
            yield Objection(flag, f"--{flag} {values[flag]}: without effect with {whose}", None)
            continue
        fitting = [f"--mel.algorithm {name}" for name in PARADIGMS if _fits(name, values, given)]
        advice = f"use {' or '.join(fitting)}, or {_LEAVE}" if fitting else _LEAVE
        yield Objection(flag, f"--{flag} {values[flag]} contradicts {whose}", advice)
    yield from _unfit(algorithm, values, given)
    yield from _unclipped(paradigm, values, given)
    for flag in OF_CORRECTION:
        if values[CORRECTION] == "off" and not flags.same(values[flag], paradigm.resolved(flag)):
            yield Objection(flag, f"--{flag} {_shown(values[flag])}: without effect with --{CORRECTION} off", None)
    for flag in values:
        if flag.startswith("critic.") and not flags.same(values[flag], paradigm.resolved(flag)):
            yield Objection(flag, f"--{flag} {_shown(values[flag])}: no paradigm has a critic", _LEAVE)


def _fits(algorithm: Algorithm, values: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether nothing that is given speaks against the paradigm. RFT never fits: it is no policy gradient."""
    paradigm = PARADIGMS[algorithm]
    return not (paradigm.correct_only or _redefined(paradigm, values, given) or any(_unfit(algorithm, values, given)))


def _redefined(paradigm: Paradigm, values: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    return [flag for flag, own in paradigm.defining.items() if flag in given and values[flag] != own]


def _unfit(algorithm: Algorithm, values: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Objection]:
    """What else does not go with the paradigm."""
    paradigm, chosen = PARADIGMS[algorithm], f"--mel.algorithm {algorithm}"
    for flag in paradigm.ignores:
        if flag in given and not flags.same(values[flag], paradigm.resolved(flag)):
            yield Objection(flag, f"--{flag} {_shown(values[flag])}: {chosen} ignores it", _LEAVE)
    if paradigm.uncorrectable and values[CORRECTION] != "off":
        fault = f"--{CORRECTION} {values[CORRECTION]}: {chosen} {paradigm.uncorrectable}"
        yield Objection(CORRECTION, fault, _LEAVE)
    for flag in (ENTROPY, KL_LOSS) if paradigm.sole_term else ():
        if values[flag]:  # an entropy of 0 is only measured
            yield Objection(flag, f"{chosen}: not supported with --{flag}, which {paradigm.sole_term}", _LEAVE)
    for flag in paradigm.needs:
        if values[flag] is None:
            yield Objection(flag, f"--{flag}: not given; {chosen} divides by it", "expected a number of tokens")
    group = values["rollout.n_samples_per_prompt"]
    if paradigm.compares_group and group == 1:
        flag = "rollout.n_samples_per_prompt"
        yield Objection(flag, f"--{flag} {group}: {algorithm} compares a group", "expected at least 2")


def _unclipped(paradigm: Paradigm, values: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Objection]:
    """A clip that is none, or one of two that does not act."""
    if not paradigm.clip:
        return
    for flag in (CLIP, CLIP_SIDES):
        sides = values[flag] if isinstance(values[flag], list) else [values[flag]]
        if any(side is not None and not side > 0 for side in sides):
            yield Objection(flag, f"--{flag} {_shown(values[flag])}: leaves a ratio no room", "expected more than 0")
    if values[CLIP_SIDES] is not None and not flags.same(values[CLIP], paradigm.resolved(CLIP)):
        fault = f"--{CLIP} {values[CLIP]}: without effect with --{CLIP_SIDES}"
        yield Objection(CLIP, fault, "leave one of them out")
    if values[DUAL_CLIP] is not None and not values[DUAL_CLIP] > 1:
        fault = f"--{DUAL_CLIP} {values[DUAL_CLIP]}: OpenRLHF refuses it in a worker"
        yield Objection(DUAL_CLIP, fault, "expected more than 1")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).lower()
