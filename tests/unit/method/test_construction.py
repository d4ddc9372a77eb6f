"""The construction with a scripted engine: what is sent and when, what is dropped and why."""

import asyncio
import dataclasses

import pytest

from openrlhf_mel.method import metrics
from openrlhf_mel.method.construction import DROP_REASONS, Constructor, Generation, Replay
from openrlhf_mel.method.experience import ContrastivePair, Group, MetaExperience, Trajectory
from openrlhf_mel.prompts import PromptFormat, Templates
from openrlhf_mel.settings import mel_options
from openrlhf_mel.settings.mel_options import MELConfig

TEMPLATES = Templates(
    {
        "question.txt": "Q={{question}} A=",
        "analysis.txt": "analyse {{question}} bad {{incorrect}} good {{correct}}",
        "replay.txt": "hint {{experience}} then {{prompt}}",
    },
    {"point": "bifurcation_point", "critique": "critique", "rule": "heuristic"},
)
M = "point: here\ncritique: why\nrule: if x then y"
MAX_LEN = 200


class Script:
    """An engine whose tokens are characters. `write` and `answer` return its outputs."""

    all_special_tokens = ()

    def __init__(self, write=M, answer="42", truncated=False):
        self.write, self.answer, self.truncated = write, answer, truncated
        self.sent: list[str] = []

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))

    async def generate(self, prompt_ids, sampling):
        self.sent.append(self.decode(prompt_ids))
        assert len(prompt_ids) + sampling.max_new_tokens <= MAX_LEN
        if isinstance(self.write, Exception):
            raise self.write
        return Generation(tuple(self.encode(self.write)), self.truncated)

    async def respond(self, prompt, answer, sampling, count):
        self.sent.append(prompt)
        assert len(prompt) + sampling.max_new_tokens <= MAX_LEN
        answers = self.answer if isinstance(self.answer, list) else [self.answer] * count
        if isinstance(self.answer, Exception):
            raise self.answer
        return [Replay(str(a), 1, None if a is None else float(a == answer)) for a in answers]

    async def settle(self):
        return 0


def group(question="q", answer="42", scores=(1.0, 0.0), texts=("right", "wrong")):
    members = tuple(Trajectory(tuple(map(ord, t)), t, s) for t, s in zip(texts, scores, strict=True))
    return Group(0, question, answer, members)


def constructor(engine, **options):
    options = {"max_new_tokens": 50, "replay_max_new_tokens": 50} | options
    return Constructor(MELConfig(**options), PromptFormat(TEMPLATES, Script()), engine, MAX_LEN)


async def of_group(c, g):
    made = c.candidates(g)
    await asyncio.gather(*map(c.construct, made))
    return made


def construct(engine, g=None, **options):
    return asyncio.run(of_group(constructor(engine, **options), g or group()))


def test_kept():
    engine = Script()
    (m,) = construct(engine)
    assert m.kept and m.reason is None
    assert m.sections == {"bifurcation_point": "here", "critique": "why", "heuristic": "if x then y"}
    assert engine.sent == ["analyse q bad wrong good right", f"hint {M} then Q=q A="]
    # M is learned from exactly the ids that it was generated from.
    assert m.context_ids == tuple(engine.encode(engine.sent[0]))
    assert m.token_ids == tuple(engine.encode(M))
    assert m.replays == ["42"] and m.replay_scores == [1.0] and m.leaked is False


CASES = {
    "context_too_long": (Script(), group(question="q" * 140), {}),
    "generation_error": (Script(write=RuntimeError("engine")), None, {}),
    "truncated": (Script(truncated=True), None, {}),
    "empty": (Script(write="  \n"), None, {}),
    "no_sections": (Script(write="point: here\nrule: x"), None, {}),
    "leak": (Script(write=M + " 42"), None, {"leak_filter": True}),
    "replay_too_long": (Script(write=M + "!" * 120), None, {}),
    "replay_error": (Script(answer=RuntimeError("engine")), None, {}),
    "replay_failed": (Script(answer="41"), None, {}),
}


@pytest.mark.parametrize("reason", DROP_REASONS)
def test_every_drop_reason(reason):
    engine, g, options = CASES[reason]
    (m,) = construct(engine, g, **options)
    assert m.reason == reason and not m.kept
    counts = metrics.step_metrics([m.group], [m], 1.0)
    assert counts[f"mel/dropped/{reason}"] == 1 and counts["mel/kept"] == 0 and counts["mel/candidates"] == 1
    assert sum(counts[f"mel/dropped/{r}"] for r in DROP_REASONS) == 1


def test_nothing_is_sent_that_does_not_fit():
    engine = Script()
    construct(engine, group(question="q" * 140))
    assert engine.sent == []
    construct(engine := Script(write=M + "!" * 120))
    assert len(engine.sent) == 1


@pytest.mark.parametrize(
    ("answers", "required", "reason"),
    [
        (["42", "1", "2"], 1, None),
        (["42", "1", "2"], 2, "replay_failed"),
        (["42", "42", "2"], 2, None),
        (["42", None, "2"], 2, "replay_error"),
        ([None, None, None], 1, "replay_error"),
        (["42", None, "42"], 2, None),
        (["1", None, "2"], 2, "replay_failed"),
    ],
)
def test_replays_required(answers, required, reason):
    (m,) = construct(Script(answer=answers), replays=3, replays_required=required)
    assert m.reason == reason


def test_answer_in_prompt_or_in_m_never_counts_as_the_responses():
    engine = Script(write=M + " the answer is 42", answer="41")
    (m,) = construct(engine, group(question="is it 42?"))
    assert "42" in engine.sent[1] and m.reason == "replay_failed"


def test_leak_is_counted_without_the_filter():
    (m,) = construct(Script(write=M + " 42"))
    assert m.kept and m.leaked
    assert metrics.step_metrics([m.group], [m], 1.0)["mel/leak_rate"] == 1


def test_validation_none_keeps_without_a_replay():
    engine = Script(answer="41")
    (m,) = construct(engine, validation="none")
    assert m.kept and len(engine.sent) == 1 and m.replay_scores == []


def test_question_context_learns_m_from_the_question_alone():
    engine = Script()
    (m,) = construct(engine, context="question")
    assert engine.sent[0].startswith("analyse")
    assert m.context_ids == tuple(engine.encode("Q=q A="))


def test_a_group_that_is_not_mixed_sends_nothing():
    engine = Script()
    assert construct(engine, group(scores=(1.0, 1.0))) == []
    assert engine.sent == []


def test_several_pairs():
    g = group(scores=(1.0, 1.0, 0.0), texts=("r1", "r2", "w"))
    ms = construct(Script(), g, pairs_per_question=5)
    assert {(m.pair.correct.text, m.pair.incorrect.text) for m in ms} == {("r1", "w"), ("r2", "w")}


def test_one_candidates_failure_leaves_the_others_alone():
    class Half(Script):
        async def generate(self, prompt_ids, sampling):
            if "r1" in self.decode(prompt_ids):
                raise RuntimeError("engine")
            return await super().generate(prompt_ids, sampling)

    ms = construct(Half(), group(scores=(1.0, 1.0, 0.0), texts=("r1", "r2", "w")), pairs_per_question=2)
    assert sorted(m.reason or "" for m in ms) == ["", "generation_error"]
    assert {m.reason: m.error for m in ms}["generation_error"].startswith("RuntimeError: ")


def test_no_barrier_between_groups():
    """One group completes M and replay while another's M is still being generated."""

    class Slow(Script):
        def __init__(self):
            super().__init__()
            self.gate = asyncio.Event()

        async def generate(self, prompt_ids, sampling):
            if "slow" in self.decode(prompt_ids):
                await self.gate.wait()
            return await super().generate(prompt_ids, sampling)

    async def run():
        engine = Slow()
        c = constructor(engine)
        slow = asyncio.create_task(of_group(c, group("slow")))
        (fast,) = await asyncio.wait_for(of_group(c, group("fast")), timeout=5)
        assert fast.kept and not slow.done()
        engine.gate.set()
        (late,) = await slow
        assert late.kept

    asyncio.run(run())


def test_pairs_do_not_depend_on_the_order_of_groups():
    groups = [group(f"q{i}", scores=(1.0, 1.0, 0.0, 0.0), texts=("a", "b", "c", "d")) for i in range(20)]

    async def run(order):
        c = constructor(Script())
        made = await asyncio.gather(*(of_group(c, g) for g in order))
        return {m.group.question: m.pair for ms in made for m in ms}

    assert asyncio.run(run(groups)) == asyncio.run(run(groups[::-1]))


def test_replay_gain_is_measured_against_the_group():
    (m,) = construct(Script(answer="42"), group(scores=(1.0, 0.0, 0.0, 0.0), texts=("a", "b", "c", "d")))
    assert metrics.replay_gain(m, 1.0) == 0.75


def test_lengths_are_the_filled_in_ones():
    c = mel_options.with_lengths(MELConfig(), MAX_LEN, 60)
    made = Constructor(c, PromptFormat(TEMPLATES, Script()), Script(), MAX_LEN)
    assert made._analysis.max_new_tokens == 50 and made._replay.max_new_tokens == 60
    assert dataclasses.replace(c, max_new_tokens=1).max_new_tokens == 1


def test_copies_are_told_whatever_their_case_numbers_and_white_space():
    texts = ["If 12 is odd,\n then add", "if 7 is  odd, then ADD ", "if 7 is even, then add", "if ٣ is odd, then add"]
    g = group()
    pair = ContrastivePair(*g.trajectories)
    kept = [MetaExperience(g, pair, text=text) for text in texts]
    dropped = MetaExperience(g, pair, text="another", reason="replay_failed")
    assert metrics.step_metrics([g], [*kept, dropped], 1.0)["mel/distinct_share"] == 2 / 4
    assert metrics.step_metrics([g], [kept[0], kept[2]], 1.0)["mel/distinct_share"] == 1


def test_copies_of_earlier_steps_are_told_within_the_window():
    recent = metrics.RecentTexts(2)
    shares = [
        recent.new_share(texts) for texts in (["a 1", "b"], [], ["A 2", "c"], ["c", "c", "d", "e"], ["b", "a 9"], ["b"])
    ]
    # the first step has no earlier one; a step without Ms is skipped; step 5 sees the a of step 3, not the b of step 1
    assert shares == [None, None, 1 / 2, 2 / 4, 1 / 2, 0.0]
    assert [metrics.RecentTexts(0).new_share(texts) for texts in (["a"], ["a"])] == [None, None]
