"""Every policy objective that `mel.algorithm` can name: what defines it, what it may vary, what it needs. Pure.

A paradigm is one entry of `PARADIGMS`. A loss that OpenRLHF lacks is in `upstream/policy_losses.py`, the term of the
proof in `tests/e2e_cpu/oracle.py`, the table in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from openrlhf_mel.settings import flags

Algorithm = Literal["grpo", "gspo", "dr_grpo", "rloo", "reinforce++", "reinforce++-baseline", "rft"]

# OpenRLHF's names.
TOKEN_MEAN, SEQUENCE_MEAN = "token-mean", "seq-mean-token-mean"
_ESTIMATOR, _LOSS_TYPE, _AGGREGATION = "algo.advantage.estimator", "actor.policy_loss_type", "actor.loss_agg_mode"
_CLIP, _CLIP_SIDES, _DUAL_CLIP = "actor.eps_clip", "actor.eps_clip_low_high", "actor.dual_clip"
_KL, _KL_LOSS, _ENTROPY = "algo.kl.init_coef", "algo.kl.use_loss", "actor.entropy_coef"
_CORRECTION = "algo.advantage.is_correction_level"
_LAMBDA, _GAMMA, _NO_STD = "algo.advantage.lambd", "algo.advantage.gamma", "algo.advantage.no_std_norm"


@dataclass(frozen=True)
class Paradigm:
    """A policy objective.

    The first three define it: another value is refused. Clip and KL are defaults, free to change.

    Attributes:
        estimator: of advantages; None: it uses none.
        loss_type: of the policy loss; None: it has a loss without a ratio.
        aggregation: of a step's tokens; OpenRLHF's name, or the formula where the loss is not OpenRLHF's.
        clip: how far below and above 1 the ratio may be; None: there is no ratio.
        kl: coefficient of the KL term.
        loss: the name in `upstream/policy_losses.py` of a loss that is not OpenRLHF's.
        compares_group: whether an advantage is relative to the other responses to the question.
        correct_only: whether only correct responses carry loss, and count in its mean.
        uncorrectable: why rollout correction (`algo.advantage.is_correction_level`) is refused; None: it is possible.
        needs: flags that must have a value.
        ignores: flags that change nothing here, and are refused.
        sole_term: why OpenRLHF's terms beside the policy loss (KL loss, entropy bonus), which are token means whatever
            the aggregation, are refused; None: they are possible.
    """

    estimator: str | None
    loss_type: str | None = "ppo"
    aggregation: str = TOKEN_MEAN
    clip: tuple[float, float] | None = (0.2, 0.2)
    kl: float = 0.0
    loss: str | None = None
    compares_group: bool = False
    correct_only: bool = False
    uncorrectable: str | None = None
    needs: tuple[str, ...] = ()
    ignores: tuple[str, ...] = (_LAMBDA,)
    sole_term: str | None = None

    @property
    def defining(self) -> dict[str, str | None]:
        """The flags that define the paradigm, with its values."""
        return {_ESTIMATOR: self.estimator, _LOSS_TYPE: self.loss_type, _AGGREGATION: self.aggregation}

    def flags(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """OpenRLHF's flags that make the paradigm, next to those that the user has `given`."""
        # Without an estimator: one that needs neither a group nor a critic, as OpenRLHF's default `gae` does.
        chosen: dict[str, Any] = {_ESTIMATOR: self.estimator or "reinforce", _KL: self.kl}
        if self.loss_type:
            chosen[_LOSS_TYPE] = self.loss_type
        if self.aggregation in (TOKEN_MEAN, SEQUENCE_MEAN):
            chosen[_AGGREGATION] = self.aggregation
        if self.clip and self.clip[0] == self.clip[1]:
            chosen[_CLIP] = self.clip[0]
        elif self.clip and _CLIP not in given:  # which the two sides would win over
            chosen[_CLIP_SIDES] = list(self.clip)
        return chosen

    def resolved(self, flag: str) -> Any:
        """The value of a flag that is not given."""
        return self.flags({}).get(flag, flags.actions()[flag].default)

    def stated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the run's objective is, for its manifest; of a run that began with other values than the paradigm's, these.

        Args:
            values: every upstream flag by dotted name.
        """
        sides = values[_CLIP_SIDES] or [values[_CLIP]] * 2
        # OpenRLHF gives its `gspo` this aggregation, whatever the flag says.
        aggregation = SEQUENCE_MEAN if values[_LOSS_TYPE] == "gspo" else values[_AGGREGATION]
        return {
            "estimator": self.estimator and values[_ESTIMATOR],
            "policy_loss_type": self.loss_type and values[_LOSS_TYPE],
            "aggregation": self.aggregation if self.loss else aggregation,
            "loss": self.loss,
            "clip": list(sides) if self.clip else None,
            "kl": values[_KL],
        }


_REWARDS = (  # what turns a reward into an advantage
    "reward.clip_range",
    "reward.overlong_buffer_len",
    "reward.overlong_penalty_factor",
    "reward.stop_properly_penalty_coef",
)
_OF_KL = (_KL, "algo.kl.target", "algo.kl.horizon", "algo.kl.estimator", "algo.kl.unbiased_gradient")
_OF_A_GROUP = (_LAMBDA, _GAMMA, _NO_STD)  # OpenRLHF uses none of these with an estimator that compares a group itself

PARADIGMS: dict[Algorithm, Paradigm] = {
    # Paper 3.4, Eq. 10.
    "grpo": Paradigm("group_norm", aggregation=SEQUENCE_MEAN, compares_group=True, ignores=_OF_A_GROUP),
    # arXiv 2507.18071: one ratio for a response, (pi / pi_old)^(1/|y|), and the mean over responses. Such a ratio is
    # close to 1: a clip of 0.2 would never act. The paper's own are 3e-4 and 4e-4.
    "gspo": Paradigm(
        "group_norm",
        loss_type="gspo",
        aggregation=SEQUENCE_MEAN,
        clip=(3e-4, 4e-4),
        compares_group=True,
        uncorrectable="cannot have it: OpenRLHF corrects the ratio of a token, and here a whole response has one",
        ignores=_OF_A_GROUP,
    ),
    # arXiv 2503.20783: advantages without the deviation, and a response's sum over a constant instead of its length.
    "dr_grpo": Paradigm(
        "dr_grpo",
        aggregation="token sum / rollout.max_new_tokens, mean over responses",
        loss="token_sum",
        compares_group=True,
        needs=("rollout.max_new_tokens",),
        ignores=_OF_A_GROUP,
        sole_term="averages over the step's tokens, while the policy term is divided by rollout.max_new_tokens",
    ),
    # arXiv 2402.14740 sums over a response's tokens; over the step's token count that is the same up to a factor.
    "rloo": Paradigm("rloo", compares_group=True, ignores=_OF_A_GROUP),
    # arXiv 2501.03262, paper 4.4.
    "reinforce++": Paradigm("reinforce"),
    "reinforce++-baseline": Paradigm("reinforce_baseline", compares_group=True, ignores=(_LAMBDA, _GAMMA)),
    # Paper 4.4: the mean over the step's correct responses of their token-averaged NLL, without advantages or a ratio.
    "rft": Paradigm(
        None,
        loss_type=None,
        aggregation=SEQUENCE_MEAN,
        clip=None,
        loss="rejection",
        correct_only=True,
        uncorrectable="ignores it, as its loss has no ratio",
        ignores=(*_OF_A_GROUP, _CLIP, _CLIP_SIDES, _DUAL_CLIP, *_OF_KL, *_REWARDS),
        sole_term="averages over all responses",
    ),
}


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
    if paradigm.uncorrectable and values[_CORRECTION] != "off":
        fault = f"--{_CORRECTION} {values[_CORRECTION]}: {chosen} {paradigm.uncorrectable}"
        yield Objection(_CORRECTION, fault, _LEAVE)
    for flag in (_ENTROPY, _KL_LOSS) if paradigm.sole_term else ():
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
    for flag in (_CLIP, _CLIP_SIDES):
        sides = values[flag] if isinstance(values[flag], list) else [values[flag]]
        if any(side is not None and not side > 0 for side in sides):
            yield Objection(flag, f"--{flag} {_shown(values[flag])}: leaves a ratio no room", "expected more than 0")
    if values[_CLIP_SIDES] is not None and not flags.same(values[_CLIP], paradigm.resolved(_CLIP)):
        fault = f"--{_CLIP} {values[_CLIP]}: without effect with --{_CLIP_SIDES}"
        yield Objection(_CLIP, fault, "leave one of them out")
    if values[_DUAL_CLIP] is not None and not values[_DUAL_CLIP] > 1:
        fault = f"--{_DUAL_CLIP} {values[_DUAL_CLIP]}: OpenRLHF refuses it in a worker"
        yield Objection(_DUAL_CLIP, fault, "expected more than 1")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value).lower()
