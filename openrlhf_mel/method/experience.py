"""Contrastive pairs and meta-experiences: choosing pairs, reading s*, C and H, finding leaks. Pure.

Paper 3.2, Eq. 2-6 (arXiv 2602.10224).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openrlhf_mel.verifier import CHOICE, Reference, states_option

SHORTEST_REFERENCE = 2  # characters; a one-digit answer occurs in any text, so a leak cannot be detected


@dataclass(frozen=True)
class Trajectory:
    """One response of a group.

    Attributes:
        token_ids: everything after the prompt, end token included.
        text: their text, special tokens left out.
        score: the verifier's raw score, before any penalty; None when it could not be judged.
        truncated: cut at the maximal length.
    """

    token_ids: tuple[int, ...]
    text: str
    score: float | None
    truncated: bool = False


@dataclass(frozen=True)
class Group:
    """A question and the responses that the policy sampled for it (paper 3.1).

    `rollouts_before` counts the run's rollouts before this one; a `step` counts updates of the policy, from 1.
    """

    rollouts_before: int
    question: str
    answer: str
    trajectories: tuple[Trajectory, ...]

    def split(self, correct_at: float) -> tuple[list[Trajectory], list[Trajectory]]:
        """(Y+, Y-): complete responses that score at least `correct_at`, and those that score less.

        A truncated response is in neither: what it would have answered is not known.
        """
        judged = [(t, t.score) for t in self.trajectories if t.score is not None and not t.truncated]
        return [t for t, score in judged if score >= correct_at], [t for t, score in judged if score < correct_at]

    def success_rate(self, correct_at: float) -> float:
        """Share of the group's responses that score at least `correct_at`."""
        return sum(t.score is not None and t.score >= correct_at for t in self.trajectories) / len(self.trajectories)


@dataclass(frozen=True)
class ContrastivePair:
    """(y+, y-) of one question (Eq. 2)."""

    correct: Trajectory
    incorrect: Trajectory


@dataclass
class MetaExperience:
    """A candidate M = (s*, C, H), and whether it was kept.

    Attributes:
        context_ids: C_retro = [I, x, y+, y-], the exact ids that were sent to the engine (Eq. 7).
        token_ids: M's own ids, end token included when it was reached.
        sections: the parts `bifurcation_point`, `critique`, `heuristic` read out of `text`.
        replays: texts of the replays; `replay_scores` their raw scores, None where the verifier failed.
        leaked: whether M contains the reference answer; None when that cannot be decided.
        reason: why it was dropped; None when it was kept.
        error: what the engine or the verifier said when it failed.
        carries: how many rollouts ended before its construction did (`mel.construction: deferred`).
    """

    group: Group
    pair: ContrastivePair
    context_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    text: str = ""
    sections: dict[str, str] = field(default_factory=dict)
    replays: list[str] = field(default_factory=list)
    replay_scores: list[float | None] = field(default_factory=list)
    replay_tokens: int = 0
    leaked: bool | None = None
    reason: str | None = None
    error: str | None = None
    carries: int = 0

    @property
    def kept(self) -> bool:
        """Whether it belongs to D_M*."""
        return self.reason is None


def choose_pairs(group: Group, count: int, selection: str, correct_at: float, seed: int) -> list[ContrastivePair]:
    """Up to `count` different pairs of Y+ x Y-; none when either is empty.

    The choice depends on (seed, rollout, question) and on the responses alone, not on the order in which they or
    their groups were finished. `uniform`: every subset of pairs is equally likely. `shortest`: the fewest
    tokens, so the cheapest context. `common_prefix`: the longest common prefix.
    """
    correct, incorrect = (sorted(ys, key=_order) for ys in group.split(correct_at))
    if not correct or not incorrect:
        return []
    total = len(correct) * len(incorrect)
    if selection == "uniform":
        digest = hashlib.sha256(f"{seed}\0{group.rollouts_before}\0{group.question}".encode()).digest()
        picks = random.Random(digest).sample(range(total), min(count, total))
        return [ContrastivePair(correct[k // len(incorrect)], incorrect[k % len(incorrect)]) for k in picks]
    pairs = [ContrastivePair(c, i) for c, i in itertools.product(correct, incorrect)]
    if selection == "shortest":
        pairs.sort(key=lambda p: len(p.correct.token_ids) + len(p.incorrect.token_ids))
    else:
        pairs.sort(key=lambda p: -_common_prefix(p.correct.token_ids, p.incorrect.token_ids))
    return pairs[:count]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _order(trajectory: Trajectory) -> tuple[tuple[int, ...], str]:
    return trajectory.token_ids, trajectory.text


def read_sections(text: str, headings: Mapping[str, str]) -> dict[str, str] | None:
    """The parts of M under `headings` (heading -> part), or None when one is missing or empty.

    Headings must come in order, each at the start of a line; case, leading `#`, `*` and numbering, and a colon
    after the heading do not matter. Parts with several headings are joined.
    """
    starts, ends, at = [], [], 0
    for heading in headings:
        # Bounded repeats: the text is a model's, and must not be able to stall the match.
        line = rf"^[ \t#*]{{0,8}}(?:\d{{1,2}}[.)])?[ \t#*]{{0,8}}{re.escape(heading)}(?!\w)[ \t*]{{0,8}}:?[ \t*]{{0,8}}"
        match = re.compile(line, re.MULTILINE | re.IGNORECASE).search(text, at)
        if match is None:
            return None
        starts.append(match.start())
        ends.append(match.end())
        at = match.end()
    parts: dict[str, list[str]] = {}
    for part, begin, end in zip(headings.values(), ends, [*starts[1:], len(text)], strict=True):
        body = text[begin:end].strip()
        if not body:
            return None
        parts.setdefault(part, []).append(body)
    return {part: "\n".join(bodies) for part, bodies in parts.items()}


def leaks(text: str, question: str, answer: str) -> bool | None:
    """Whether M contains the reference answer as a token of its own while the question does not.

    Of a `choice`, whose question holds every option: whether M says which one is right ("the answer is B").
    None when the reference is too short to decide (fewer than two characters).
    """
    if isinstance(answer, Reference) and answer.scorer == CHOICE:
        return states_option(text, answer)
    answer = answer.strip()
    if len(answer) < SHORTEST_REFERENCE:
        return None
    alone = re.compile(rf"(?<!\w)(?<!\d\.){re.escape(answer)}(?!\w)(?!\.\d)")
    return bool(alone.search(text)) and not alone.search(question)
