"""Metrics of a step's responses and meta-experiences. Pure.

Retention ratio (paper, figure 9), replay gain, leak rate, length, duplication, cost; see docs/method.md.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from openrlhf_mel.method.construction import DROP_REASONS
from openrlhf_mel.method.experience import Group, MetaExperience


def rollout_metrics(groups: Sequence[Group], model_reward: float | None = None) -> dict[str, float]:
    """`rollout/tokens` and `reward_mean` of one rollout: the mean raw score, one that could not be judged counting 0.

    `model_reward` is a reward model's mean, which scores after sampling; it counts where no response has a score. Without
    either, `reward_mean` is left out.
    """
    trajectories = [t for g in groups for t in g.trajectories]
    scores = [t.score for t in trajectories]
    values: dict[str, float] = {"rollout/tokens": sum(len(t.token_ids) for t in trajectories)}
    if any(score is not None for score in scores):
        values["reward_mean"] = sum(score or 0.0 for score in scores) / len(scores)
    elif model_reward is not None:
        values["reward_mean"] = model_reward
    return values


def step_metrics(groups: Sequence[Group], candidates: Sequence[MetaExperience], correct_at: float) -> dict[str, float]:
    """`mel/...` of one rollout. A ratio whose denominator is zero is left out, not reported as zero."""
    kept = [m for m in candidates if m.kept]
    written = [m for m in candidates if m.text]
    judged = [m for m in candidates if any(s is not None for s in m.replay_scores)]
    told = [m.leaked for m in candidates if m.leaked is not None]
    metrics: dict[str, float] = {
        "mel/groups_mixed": sum(all(g.split(correct_at)) for g in groups),
        "mel/candidates": len(candidates),
        "mel/kept": len(kept),
        "mel/tokens": sum(len(m.token_ids) + m.replay_tokens for m in candidates),
        "mel/leak_untold": sum(bool(m.text) and m.leaked is None for m in candidates),
        **{f"mel/dropped/{reason}": sum(m.reason == reason for m in candidates) for reason in DROP_REASONS},
    }
    if candidates:
        metrics["mel/retention_ratio"] = len(kept) / len(candidates)
    if written:
        metrics["mel/length_mean"] = sum(len(m.token_ids) for m in written) / len(written)
    if kept:
        metrics["mel/distinct_share"] = len({normalised(m.text) for m in kept}) / len(kept)
    if told:
        metrics["mel/leak_rate"] = sum(told) / len(told)
    if judged:
        metrics["mel/replay_gain"] = sum(replay_gain(m, correct_at) for m in judged) / len(judged)
    return metrics


def normalised(text: str) -> str:
    """The text without case, numbers and white space: Ms that differ in these alone become equal."""
    return " ".join(re.sub(r"\d+", "0", text).casefold().split())


class RecentTexts:
    """The kept Ms, normalised, of the last `window` steps that kept one."""

    def __init__(self, window: int) -> None:
        self._steps: deque[set[str]] = deque(maxlen=window)

    def new_share(self, texts: Sequence[str]) -> float | None:
        """Share of a step's kept Ms that the last `window` steps did not have; then add this step to them.

        None when nothing was kept, in this step or before. Duplicates within the step are not counted here.
        """
        if not texts:
            return None
        own = [normalised(text) for text in texts]
        before = set().union(*self._steps)
        self._steps.append(set(own))
        return sum(text not in before for text in own) / len(own) if before else None


def replay_gain(m: MetaExperience, correct_at: float) -> float:
    """Success rate of M's judged replays minus the group's own: how much M helps beyond luck."""
    scores = [s for s in m.replay_scores if s is not None]
    return sum(s >= correct_at for s in scores) / len(scores) - m.group.success_rate(correct_at)
