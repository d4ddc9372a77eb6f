"""Every policy objective that `mel.algorithm` can name: what defines it, what it may vary, what it needs. Pure.

A paradigm is one entry of `PARADIGMS`. A loss that OpenRLHF lacks is in `upstream/policy_losses.py`, the term of the
proof in `tests/e2e_cpu/oracle.py`, the table in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from openrlhf_mel.settings import flags

Algorithm = Literal["grpo", "gspo", "dr_grpo", "rloo", "reinforce++", "reinforce++-baseline", "rft"]

# OpenRLHF's names.
TOKEN_MEAN, SEQUENCE_MEAN = "token-mean", "seq-mean-token-mean"
ESTIMATOR, _LOSS_TYPE, _AGGREGATION = "algo.advantage.estimator", "actor.policy_loss_type", "actor.loss_agg_mode"
CLIP, CLIP_SIDES, DUAL_CLIP = "actor.eps_clip", "actor.eps_clip_low_high", "actor.dual_clip"
_KL, KL_LOSS, ENTROPY = "algo.kl.init_coef", "algo.kl.use_loss", "actor.entropy_coef"
CORRECTION = "algo.advantage.is_correction_level"
OF_CORRECTION = ("algo.advantage.is_correction_mode", "algo.advantage.is_correction_threshold")
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
        return {ESTIMATOR: self.estimator, _LOSS_TYPE: self.loss_type, _AGGREGATION: self.aggregation}

    def flags(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """OpenRLHF's flags that make the paradigm, next to those that the user has `given`."""
        # Without an estimator: one that needs neither a group nor a critic, as OpenRLHF's default `gae` does.
        chosen: dict[str, Any] = {ESTIMATOR: self.estimator or "reinforce", _KL: self.kl}
        if self.loss_type:
            chosen[_LOSS_TYPE] = self.loss_type
        if self.aggregation in (TOKEN_MEAN, SEQUENCE_MEAN):
            chosen[_AGGREGATION] = self.aggregation
        if self.clip and self.clip[0] == self.clip[1]:
            chosen[CLIP] = self.clip[0]
        elif self.clip and CLIP not in given:  # which the two sides would win over
            chosen[CLIP_SIDES] = list(self.clip)
        return chosen

    def resolved(self, flag: str) -> Any:
        """The value of a flag that is not given."""
        return self.flags({}).get(flag, flags.actions()[flag].default)

    def stated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the run's objective is, for its manifest; of a run that began with other values than the paradigm's, these.

        Args:
            values: every upstream flag by dotted name.
        """
        sides = values[CLIP_SIDES] or [values[CLIP]] * 2
        # OpenRLHF gives its `gspo` this aggregation, whatever the flag says.
        aggregation = SEQUENCE_MEAN if values[_LOSS_TYPE] == "gspo" else values[_AGGREGATION]
        return {
            "estimator": self.estimator and values[ESTIMATOR],
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
        ignores=(*_OF_A_GROUP, CLIP, CLIP_SIDES, DUAL_CLIP, *_OF_KL, *_REWARDS),
        sole_term="averages over all responses",
    ),
}
