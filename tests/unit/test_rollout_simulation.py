"""`benchmarks/rollout_simulation.py`: rollouts that are worked by hand, and what holds for all of them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.engine_model import Engine, EngineModel, Engines
from benchmarks.rollout_simulation import KINDS, Lengths, Workload, rollouts

SECOND = EngineModel(((1, 1.0),))  # a token each in a second, whatever the batch
ONE = Workload(questions=1, group=2, mixed=1.0, responses=Lengths(100, 0, 999), experiences=Lengths(30, 0, 999))


def simulated(kind, model=SECOND, work=ONE, engines=1, steps=1, **more):
    return list(rollouts(kind, model, work, engines, steps, 0, **more))


@pytest.mark.parametrize(("batch", "seconds"), [(1, 1.0), (2, 1.5), (3, 2.0), (5, 3.0)])
def test_a_curve_is_linear_between_its_points_and_beyond(batch, seconds):
    assert EngineModel(((1, 1.0), (3, 2.0))).step_s(batch) == seconds


def test_requests_share_the_steps_wait_for_slots_and_for_prefill():
    ends = []
    engine = Engine(EngineModel(((1, 1.0), (2, 2.0)), slots=2, prefill=10))
    for tokens in (5, 10, 5):
        engine.add(0.0, 10, tokens, ends.append)
    while engine.next_end() < math.inf:
        now, done = engine.end_next()
        done(now)
    # 2 s of prefill, 5 steps of 2 s, 1 s of prefill, 5 steps of 2 s for the two that are left
    assert ends == [12.0, 23.0, 23.0] and not len(engine)


def test_of_several_engines_the_next_end_is_found_after_every_change():
    engines, ends = Engines(SECOND, 3), []
    assert engines.next_end() == math.inf
    for index, tokens in ((0, 9), (1, 5), (1, 7), (2, 6)):
        engines.add(index, 0.0, 0, tokens, ends.append)
    assert engines.fewest() == 0
    now, done = engines.end_next()
    done(now)
    engines.add(2, 5.0, 0, 1, ends.append)  # two ends at the same time
    while engines.next_end() < 9:
        now, done = engines.end_next()
        done(now)
    assert ends == [5, 6, 6, 7] and engines.break_off(8.0) == 8 and engines.next_end() == math.inf


def test_a_group_stays_together_and_constructions_are_spread():
    """Two groups on two engines, in batches of two: the second group's responses do not wait for the first's."""
    two = EngineModel(((1, 1.0), (2, 2.0)))
    work = Workload(questions=2, group=2, mixed=1.0, responses=Lengths(100, 0, 999), experiences=Lengths(30, 0, 999))
    (none,), (streaming,) = (simulated(kind, two, work, engines=2) for kind in ("none", "streaming"))
    assert none.seconds == 200 and streaming.seconds == 330


@pytest.mark.parametrize(
    ("kind", "seconds", "finished", "waited"),
    [("none", 100, 0, 0), ("barrier", 230, 1, 130), ("streaming", 230, 1, 130), ("deferred", 100, 0, 0)],
)
def test_one_group(kind, seconds, finished, waited):
    (found,) = simulated(kind)
    assert (found.seconds, found.finished, found.waited_s) == (seconds, finished, waited)


def test_a_carried_pair_goes_first_and_is_waited_for_at_its_bound():
    first, second = simulated("deferred", steps=2)
    assert (first.seconds, first.finished, first.carried, first.tokens) == (100, 0, 1, 200)
    assert (second.seconds, second.finished, second.waited_s) == (130, 1, 30)
    first, second = simulated("deferred", steps=2, max_carries=2)
    assert (second.seconds, second.finished, second.carried) == (100, 0, 2)
    assert second.rewritten == 70  # of a replay; its M was finished in this rollout, and is not written again


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=30)
def test_no_pair_is_lost_and_none_is_free(questions, engines, steps, slots):
    model = EngineModel(((1, 1.0), (8, 2.0)), slots=slots + 1, prefill=500)
    work = Workload(questions=questions, group=3, responses=Lengths(60, 0.9, 400), experiences=Lengths(30, 0.5, 90))
    of = {kind: simulated(kind, model, work, engines, steps) for kind in KINDS}
    drawn = sum(each.finished for each in of["streaming"])
    assert drawn == sum(each.finished for each in of["barrier"])
    assert drawn == sum(each.finished for each in of["deferred"]) + of["deferred"][-1].carried
    assert all(0 <= each.idle < 1 and each.rewritten >= 0 for kind in KINDS for each in of[kind])
    for none, streaming in zip(of["none"], of["streaming"], strict=True):
        assert none.tokens <= streaming.tokens
