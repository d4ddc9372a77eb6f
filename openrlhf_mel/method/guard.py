"""Signs that training degenerates, from the rows of `metrics.jsonl`. Pure.

Self-distilling methods degrade after 100 to 400 steps (lasgroup/SDPO issue 25: accuracy 0.68 to nothing after step
400). The guard compares the run with itself: the median of a quantity's last `window` values with the median of its
first `window` values or, for a quantity with little noise, the last value with the first. A step without the quantity
(no kept M) does not count. All state follows from the rows, so a resumed run restores it by feeding them again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

_RATIO = "grad_norm/nll / grad_norm/policy"
_READ = "read the latest responses and Ms in meta_experiences.jsonl"
_LESS = "lower mel.nll_coef or end it earlier (mel.nll_schedule, mel.nll_end_step)"
_ANEW = "trust checkpoints from before, and start anew with"


@dataclass(frozen=True)
class Sign:
    """`quantity`'s median is `side` the limit: `limit` itself, `limit` times the reference, or the reference plus it.

    Attributes:
        floor: for "above", the threshold is at least `limit` times this, because multiples of tiny values are noise.
        ceiling: the threshold is at most this, whatever the reference.
        at_once: compares the last value with the first, not medians.
    """

    quantity: str
    side: Literal["below", "above"]
    limit: float
    of: Literal["value", "times", "plus"]
    meaning: str
    advice: str
    floor: float = 0.1  # nats; lengths are far above
    ceiling: float = math.inf
    at_once: bool = False

    def threshold(self, reference: float) -> float:
        """The median past which the sign shows, in the quantity's unit."""
        if self.of == "value":
            return self.limit
        if self.of == "plus":
            return reference + self.limit
        return min(self.limit * (reference if self.side == "below" else max(reference, self.floor)), self.ceiling)

    def shows(self, value: float, reference: float) -> bool:
        """Whether a median, or a single value, is past the threshold."""
        limit = self.threshold(reference)
        return value < limit if self.side == "below" else value > limit


# fmt: off
SIGNS = (
    # Nats a token. RL without an entropy bonus spends 73% in 200 steps as it learns (arXiv 2505.22617); the demo 15%.
    Sign("policy/entropy", "below", 0.2, "times", "entropy collapse, the policy hardly explores",
         f"{_ANEW} a lower mel.nll_coef or actor.adam.lr, or a wider upper clip (actor.eps_clip_low_high)"),
    # Learning lowers entropy or, with a wide upper clip, doubles it; three times indicates noise.
    Sign("policy/entropy", "above", 3, "times", "entropy explosion, the policy drifts towards noise",
         f"{_ANEW} a lower actor.adam.lr or mel.nll_coef"),
    # Tokens. A base model that stops rambling may halve its responses.
    Sign("rollout/response_length_mean", "below", 1 / 3, "times", "responses shrink, reasoning may be skipped",
         f"{_READ} and lower mel.nll_coef"),
    # Longer reasoning doubles or trebles responses in a few hundred steps; `rollout/truncated_rate` shows cut ones.
    Sign("rollout/response_length_mean", "above", 4, "times", "responses swell, they may repeat themselves",
         f"{_READ}; lower actor.adam.lr or penalise length (reward.overlong_buffer_len)"),
    # A share: every fifth response more than at the start is neither y+ nor y-, and mostly counts as wrong.
    Sign("rollout/truncated_rate", "above", 0.2, "plus", "ever more responses are cut off",
         "raise rollout.max_new_tokens if they reason, lower actor.adam.lr if they repeat themselves"),
    # Shares. More than half of a step's kept Ms repeat another's text, but for numbers; two alike (0.5) are no sign yet.
    Sign("mel/distinct_share", "below", 0.5, "value", "Ms are copies of each other", f"{_READ} and {_LESS}"),
    # With few possible texts Ms repeat in a healthy run too (the demo: 0.25 are new), so relative to the run's start.
    Sign("mel/new_share", "below", 1 / 3, "times", "Ms are copies of earlier ones", f"{_READ} and {_LESS}"),
    # Tokens. As with responses, a base model's first Ms ramble.
    Sign("mel/length_mean", "below", 1 / 3, "times", "Ms shrink, they may be empty phrases", f"{_READ} and {_LESS}"),
    # Nats a token. Ms are the policy's own samples, so it follows their entropy; the demo's rises by 22 to 91%.
    Sign("mel/nll", "above", 3, "times", "the policy finds its own Ms ever less likely",
         f"{_READ}; {_ANEW} a lower actor.adam.lr"),
    # A tenth of the NLL is left: the policy has memorised its Ms, and they teach nothing more.
    Sign("mel/nll", "below", 0.1, "times", "Ms are recited, their NLL is next to nothing", f"{_READ} and {_LESS}"),
    # Clipping is joint: with orthogonal gradients the policy's share of the norm is then below a tenth. The demo: 1.5.
    Sign(_RATIO, "above", 10, "value", "the NLL swamps the policy loss", "lower mel.nll_coef"),
    # Nats a token; in the first rollout engine and policy both have the weights of the files. In small rollouts a sound
    # engine varies: 1e-11 to 2e-10 in fp32, 2e-5 to 7e-5 in bf16 (the toy, lr 1e-3). With one of its 46
    # tensors lost: 6e-6 and 3e-5 in fp32 after one update and two, 6 and 40 times the first in bf16 after three.
    Sign("rollout/kl_k3", "above", 10, "times", "the engine does not sample from the policy",
         "see whether it rises with every step (weights are lost on the way to the engine) or is there from the first (the "
         "engine computes another model); what cannot be mended can be corrected for (algo.advantage.is_correction_level). "
         "With train.async_enable the policy's own steps since the rollout are part of it",
         floor=1e-7, ceiling=0.05, at_once=True),
)
# fmt: on
_WATCHED = (*dict.fromkeys(s.quantity for s in SIGNS if s.quantity != _RATIO), "grad_norm/nll", "grad_norm/policy")
_FINITE = (*_WATCHED, "loss/policy", "loss/nll", "actor_grad_norm", "reward_mean")


class _Alarm:
    """Rings when its sign first shows, and again only when it returns after `rest` values in a row without it."""

    def __init__(self, rest: int) -> None:
        self.rest = self.quiet = rest  # quiet: values in a row without the sign, up to `rest`

    def rings(self, shown: bool) -> bool:
        rung = shown and self.quiet >= self.rest
        self.quiet = 0 if shown else min(self.quiet + 1, self.rest)
        return rung


class _Series:
    """The first and the last `window` values of a quantity, each with its step."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.first: list[tuple[int, float]] = []
        self.last: deque[tuple[int, float]] = deque(maxlen=window)

    def add(self, step: int, value: float) -> None:
        self.last.append((step, value))
        if len(self.first) < self.window:
            self.first.append((step, value))


class CollapseGuard:
    """Gets one row of `metrics.jsonl` per step; warns of each sign in `SIGNS` once, until it has cleared and returned.

    A sign has cleared after `window` values in a row on the right side of its limit. Values that are not finite are a
    sign of their own, without delay. `window` 0: no warning ever.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._series = {sign.quantity: _Series(1 if sign.at_once else window) for sign in SIGNS}
        self._alarms = [_Alarm(window) for _ in SIGNS]
        self._not_finite = _Alarm(window)

    def observe(self, row: Mapping[str, Any]) -> list[str]:
        """The warnings that `row` causes, one sentence each, with the evidence."""
        if not self.window:
            return []
        step = row["step"]
        numbers = {key: row[key] for key in _FINITE if isinstance(row.get(key), int | float)}
        bad = {key: value for key, value in numbers.items() if not math.isfinite(value)}
        warnings = []
        if self._not_finite.rings(bool(bad)):
            shown = ", ".join(f"{key} is {value}" for key, value in bad.items())
            warnings.append(
                f"step {step}: not a finite number: {shown}; stop, {_ANEW} a lower actor.adam.lr or mel.nll_coef"
            )
        values = _quantities({key: value for key, value in numbers.items() if key not in bad})
        for quantity, value in values.items():
            self._series[quantity].add(step, value)
        for sign, alarm in zip(SIGNS, self._alarms, strict=True):
            series = self._series[sign.quantity]
            if sign.quantity in values and len(series.last) == series.window:
                evidence = self._evidence(sign, series)
                if alarm.rings(evidence is not None):
                    warnings.append(f"step {step}: {sign.meaning}: {evidence}; {sign.advice}")
        return warnings

    def _evidence(self, sign: Sign, series: _Series) -> str | None:
        """The evidence of `sign`, or None. "Since" is the first of the last values that is past the limit."""
        reference, now = (median(value for _, value in part) for part in (series.first, series.last))
        if not sign.shows(now, reference):
            return None
        since = next(step for step, value in series.last if sign.shows(value, reference))
        limit = f"{sign.side} the limit of {_shown(sign.threshold(reference))}"
        if sign.at_once:
            return f"{sign.quantity} {_shown(now)}, {limit} ({_shown(reference)} at step {series.first[0][0]})"
        return (
            f"median of {sign.quantity} {_shown(now)} over {_span(series.last)}, {limit} "
            f"({_shown(reference)} over {_span(series.first)}), since step {since}"
        )


def _quantities(numbers: Mapping[str, float]) -> dict[str, float]:
    """The watched quantities of a row. A step whose policy gradient is zero has no ratio."""
    values = {sign.quantity: numbers[sign.quantity] for sign in SIGNS if sign.quantity in numbers}
    if "grad_norm/nll" in numbers and numbers.get("grad_norm/policy", 0) > 0:
        values[_RATIO] = numbers["grad_norm/nll"] / numbers["grad_norm/policy"]
    return values


def _span(part: Sequence[tuple[int, float]]) -> str:
    return f"steps {part[0][0]}-{part[-1][0]}"


def _shown(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
