"""Constructions that are broken off and go on: none is lost, none ends twice, and none is chosen by its length."""

import asyncio
import json
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_mel.method.construction import Constructor, Generation, Replay
from openrlhf_mel.method.constructions import Constructions
from openrlhf_mel.method.experience import Group, Trajectory
from openrlhf_mel.prompts import PromptFormat, Templates
from openrlhf_mel.run import carried_experiences
from openrlhf_mel.settings.mel_options import MELConfig

pytestmark = pytest.mark.timeout(120)
TEMPLATES = Templates(
    {"question.txt": "{{question}}", "analysis.txt": "{{question}} {{incorrect}} {{correct}}",
     "replay.txt": "{{experience}} {{prompt}}"},
    {"point": "bifurcation_point", "rule": "heuristic"},
)  # fmt: skip


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing else is to do."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


@dataclass
class Engine:
    """Tokens are characters. M and replay of a question take `seconds[question]`, a token a second; some fail."""

    seconds: dict[str, tuple[int, int]]
    failing: frozenset[str] = frozenset()
    all_special_tokens: tuple[str, ...] = ()
    running: int = 0
    aborted: list[int] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    async def _take(self, seconds):
        loop = asyncio.get_running_loop()
        begun, self.running = loop.time(), self.running + 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.aborted.append(round(loop.time() - begun))
            await asyncio.sleep(0.5)  # it ends with the engine's next step
            raise
        finally:
            self.running -= 1

    async def generate(self, prompt_ids, sampling):
        question = self.decode(prompt_ids).split()[0]
        self.requests.append(("M", question))
        await self._take(self.seconds[question][0])
        if question in self.failing:
            raise RuntimeError("the engine")
        return Generation(tuple(self.encode(f"point: a\nrule: {'b' * self.seconds[question][0]}")), False)

    async def respond(self, prompt, answer, sampling, count):
        question = prompt.split()[-1]
        self.requests.append(("replay", question))
        await self._take(self.seconds[question][1])
        return [Replay("7", self.seconds[question][1], 1.0)]

    async def settle(self):
        while self.running:
            await asyncio.sleep(0.25)
        aborted, self.aborted = self.aborted, []
        return sum(aborted)


def constructions(engine, max_carries=1):
    config = MELConfig(max_new_tokens=300, replay_max_new_tokens=300)
    made = Constructor(config, PromptFormat(TEMPLATES, engine), engine, 1000)
    return Constructions(made, max_carries), made


def group(question, rollout=0):
    return Group(rollout, question, "7", (Trajectory((1,), "right", 1.0), Trajectory((2,), "wrong", 0.0)))


def run(coroutine):
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(coroutine)


def test_an_m_in_the_making_is_written_anew_and_a_written_one_is_only_replayed():
    engine = Engine({"a": (10, 1), "b": (2, 10), "c": (2, 2)})

    async def rollouts():
        made, constructor = constructions(engine)
        ms = {name: constructor.candidates(group(name))[0] for name in "abc"}
        await made.start(ms.values())
        await asyncio.sleep(5)
        await made.finish_those_at_their_bound()  # none is
        lost = await made.break_off()
        assert engine.running == 0 and lost == 5 + 3  # tokens of a's M and of b's replay
        assert [m.group.question for m in made.carried] == ["a", "b"] and ms["c"].kept
        assert not ms["a"].token_ids and ms["b"].token_ids and ms["b"].reason is None
        text, engine.requests = ms["b"].text, []
        made.carried, resumed = [], made.carried
        await made.start(resumed)
        await made.finish_those_at_their_bound()
        assert await made.break_off() == 0 and made.carried == []
        assert engine.requests == [("M", "a"), ("replay", "b"), ("replay", "a")]
        assert all(m.kept and m.carries == 1 and m.error is None for m in resumed) and ms["b"].text == text

    run(rollouts())


def test_what_has_ended_is_not_held():
    """A run has thousands of Ms, each with its group's responses."""

    async def rollouts():
        made, constructor = constructions(Engine({"a": (1, 1), "b": (1, 9)}))
        await made.start(constructor.candidates(group("a")))
        await made.finish()
        assert not made._tasks
        (b,) = constructor.candidates(group("b"))
        b.carries = 1
        await made.start([b])
        await made.finish_those_at_their_bound()
        assert b.kept and not made._tasks

    run(rollouts())


def test_what_is_held_goes_on_unbegun_behind_what_is_broken_off():
    engine = Engine({"a": (10, 1), "b": (1, 1), "c": (1, 1)})

    async def rollouts():
        made, constructor = constructions(engine)
        a, b, c = (constructor.candidates(group(name))[0] for name in "abc")
        await made.start([a])
        made.hold([b, c])
        await asyncio.sleep(2)
        assert await made.break_off() == 2 and made.carried == [a, b, c]
        assert [m.carries for m in made.carried] == [1, 1, 1] and engine.requests == [("M", "a")]
        made.carried, resumed = [], made.carried
        await made.start(resumed)
        await made.finish_those_at_their_bound()
        assert await made.break_off() == 0 and made.carried == [] and all(m.kept and m.carries == 1 for m in resumed)

    run(rollouts())


def test_what_no_rollout_has_touched_is_not_carried_once_more():
    """At an episode's end a draw without questions takes nothing of what is carried."""

    async def rollouts():
        made, constructor = constructions(Engine({"a": (1, 1)}), max_carries=2)
        (a,) = constructor.candidates(group("a"))
        made.hold([a])
        await made.break_off()
        await made.break_off()
        assert made.carried == [a] and a.carries == 1

    run(rollouts())


def test_a_construction_that_fails_in_the_code_ends_the_run():
    engine = Engine({"a": (1, 1)})

    async def rollout():
        made, constructor = constructions(engine)
        constructor._read = lambda m: 1 / 0
        await made.start(constructor.candidates(group("a")))
        await asyncio.sleep(5)
        await made.break_off()

    with pytest.raises(ZeroDivisionError):
        run(rollout())


@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans())
@settings(max_examples=15, deadline=None)
def test_none_is_lost_none_ends_twice_and_lengths_are_those_of_streaming(seed, max_carries, kills):
    """A run of 50 rollouts, killed at random moments and taken up from its last whole step."""
    rng = random.Random(seed)
    names = [[f"q{step}.{i}" for i in range(rng.randrange(6))] for step in range(50)]
    seconds = {name: (rng.randrange(1, 120), rng.randrange(1, 200)) for step in names for name in step}
    failing = frozenset(name for name in seconds if rng.random() < 0.1)
    lasts = [rng.randrange(1, 150) for _ in names]
    learned = []  # of each whole step: (question, rollouts since it was drawn, kept, length, replayed)

    async def attempt(saved):
        engine = Engine(seconds, failing)
        made, constructor = constructions(engine, max_carries)
        made.carried = [carried_experiences.from_row(json.loads(row)) for row in saved]
        for step in range(len(learned), len(names)):
            mine, made.carried = made.carried, []
            await made.start(mine)
            for name in names[step]:
                await asyncio.sleep(lasts[step] / 6)
                mine = [*mine, *constructor.candidates(group(name, step))]
                await made.start(mine[-1:])
            if kills and rng.random() < 0.1:
                return saved
            if step + 1 == len(names):
                await made.finish()
            else:
                await made.finish_those_at_their_bound()
                await made.break_off()
            assert engine.running == 0
            ended = [m for m in mine if not any(m is other for other in made.carried)]
            assert all(m.carries <= max_carries for m in mine)
            learned.append(
                [
                    (m.group.question, step - m.group.rollouts_before, m.kept, len(m.text), m.replay_tokens)
                    for m in ended
                ]
            )
            saved = [json.dumps(carried_experiences.to_row(m)) for m in made.carried]
        return saved

    saved = []
    while len(learned) < len(names):
        saved = run(attempt(saved))
    ended = [each for step in learned for each in step]
    assert not saved and sorted(question for question, *_ in ended) == sorted(seconds)
    for question, late, kept, length, replayed in ended:
        assert late <= max_carries and kept == (question not in failing)
        written, replay = seconds[question]
        assert (length, replayed) == ((len("point: a\nrule: ") + written, replay) if kept else (0, 0))
