"""A finished group -> pair -> M -> replay -> kept or dropped, with the reason (paper 3.2, Eq. 2-6).

Pure logic over an engine protocol: no Ray, no OpenRLHF, no torch. Each M is constructed by a coroutine of its own, so
nothing here ever waits for another M; `constructions.py` runs those of a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openrlhf_mel.method import experience
from openrlhf_mel.method.experience import Group, MetaExperience, leaks
from openrlhf_mel.prompts import PromptFormat
from openrlhf_mel.settings.mel_options import MELConfig

DROP_REASONS = (
    "context_too_long",  # C_retro and M's budget exceed max_len
    "generation_error",  # the engine failed on M
    "truncated",  # M did not end by itself: cut at its maximal length, or aborted by the engine
    "empty",  # M has no text
    "no_sections",  # M lacks one of the template's headings
    "leak",  # M contains the reference answer (only under mel.leak_filter)
    "replay_too_long",  # the replay prompt and its budget exceed max_len
    "replay_error",  # the engine or the verifier failed on a replay that could have decided
    "replay_failed",  # too few replays were right
)


@dataclass(frozen=True)
class EngineSampling:
    """How to sample: temperature, nucleus, and the most new tokens."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Generation:
    """A plain continuation: its own token ids, and whether the maximal length or the engine truncated it."""

    token_ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class Replay:
    """A judged response to a replay prompt. `score` is None when the verifier could not judge."""

    text: str
    tokens: int
    score: float | None


class Engine(Protocol):
    """What construction needs of the rollout engine and the verifier."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, as the engine will see them."""

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Text of a response, special tokens left out."""

    async def generate(self, prompt_ids: list[int], sampling: EngineSampling) -> Generation:
        """Continue `prompt_ids`; nothing is scored."""

    async def respond(self, prompt: str, answer: str, sampling: EngineSampling, count: int) -> list[Replay]:
        """`count` responses to `prompt`, judged against `answer` on the responses' own tokens."""

    async def settle(self) -> int:
        """Wait until nothing is generated any more for calls that were cancelled; how many tokens they had generated."""


class Constructor:
    """Writes and validates the meta-experiences of groups."""

    def __init__(self, config: MELConfig, prompts: PromptFormat, engine: Engine, max_len: int) -> None:
        """`config` has its lengths filled in; `max_len` is `data.max_len`, in tokens."""
        assert config.max_new_tokens is not None and config.replay_max_new_tokens is not None, (
            "lengths: see with_lengths"
        )
        self.config, self.prompts, self.engine, self.max_len = config, prompts, engine, max_len
        self._analysis = EngineSampling(config.temperature, config.top_p, config.max_new_tokens)
        self._replay = EngineSampling(config.replay_temperature, 1.0, config.replay_max_new_tokens)

    def candidates(self, group: Group) -> list[MetaExperience]:
        """An M, to be constructed, for each chosen pair of the group; none when the group is not mixed."""
        c = self.config
        pairs = experience.choose_pairs(group, c.pairs_per_question, c.pair_selection, c.correct_at, c.seed)
        return [MetaExperience(group, pair) for pair in pairs]

    async def construct(self, m: MetaExperience) -> None:
        """Write M, unless an earlier call has; read and validate it. `m.reason` says why it is dropped, None if kept.

        A call may be cancelled and `construct` be called again, with the rest: an M that was being written is written
        anew; one that was being replayed is replayed anew, with the same text.
        """
        m.reason = (None if m.token_ids else await self._write(m)) or self._read(m) or await self._validate(m)

    async def _write(self, m: MetaExperience) -> str | None:
        """Eq. 5: the policy writes M from C_retro."""
        prompt = self.prompts.analysis(m.group.question, m.pair.incorrect.text, m.pair.correct.text)
        context = self.engine.encode(prompt)
        if self.config.context == "question":
            # The engine still sees the full context; the NLL will condition on the question alone.
            m.context_ids = tuple(self.engine.encode(self.prompts.question(m.group.question)))
        else:
            m.context_ids = tuple(context)
        if len(context) + self._analysis.max_new_tokens > self.max_len:
            return "context_too_long"
        try:
            generation = await self.engine.generate(context, self._analysis)
        except Exception as error:  # an engine's failure drops one candidate; it must not end the run
            m.error = _told(error)
            return "generation_error"
        m.token_ids = generation.token_ids
        m.text = self.engine.decode(generation.token_ids).strip()
        m.leaked = leaks(m.text, m.group.question, m.group.answer)
        return "truncated" if generation.truncated else None

    def _read(self, m: MetaExperience) -> str | None:
        if not m.text:
            return "empty"
        sections = experience.read_sections(m.text, self.prompts.templates.sections)
        if sections is None:
            return "no_sections"
        m.sections = sections
        return "leak" if m.leaked and self.config.leak_filter else None

    async def _validate(self, m: MetaExperience) -> str | None:
        """Eq. 6: M is kept only if the policy, given M in front of the question, solves it."""
        c = self.config
        if c.validation == "none":
            return None
        prompt = self.prompts.replay(m.group.question, m.text)
        if len(self.engine.encode(prompt)) + self._replay.max_new_tokens > self.max_len:
            return "replay_too_long"
        try:
            replays = await self.engine.respond(prompt, m.group.answer, self._replay, c.replays)
        except Exception as error:  # as above
            m.error = _told(error)
            return "replay_error"
        m.replays = [r.text for r in replays]
        m.replay_scores = [r.score for r in replays]
        m.replay_tokens = sum(r.tokens for r in replays)
        right = sum(s is not None and s >= c.correct_at for s in m.replay_scores)
        unjudged = sum(s is None for s in m.replay_scores)
        if right >= c.replays_required:
            return None
        return "replay_error" if right + unjudged >= c.replays_required else "replay_failed"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
