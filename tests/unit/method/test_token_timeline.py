"""When an engine generated its tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method.token_timeline import INTERVALS, TokenTimeline, idle


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def timeline(*events):
    """Return the timeline of events (seconds, tokens)."""
    clock = Clock()
    made = TokenTimeline(clock)
    for clock.now, tokens in events:
        made.add(tokens)
    return made


def steady(seconds, rate):
    return [(i / rate, 1) for i in range(int(seconds * rate))]


def test_the_best_window_is_found():
    made = timeline((0.1, 1), (1.0, 50), (1.2, 50), (1.9, 3), (2.5, 60))
    assert made.tokens == 164
    assert made.best_rate(1.0) == pytest.approx(103, rel=0.01)
    assert made.best_rate(0.1) == pytest.approx(600, rel=0.02)
    assert TokenTimeline().best_rate(1.0) == 0


@given(st.lists(st.tuples(st.floats(0, 5000), st.integers(0, 9)), max_size=50).map(sorted))
def test_a_timeline_of_any_length_stays_small_and_loses_nothing(events):
    made = timeline(*events)
    assert made.tokens == sum(tokens for _, tokens in events) and len(made.counts) <= INTERVALS
    last = max((at for at, _ in events), default=0)
    assert made.width <= max(1e-3, 2 * last / (INTERVALS - 1))


def test_idle_is_what_the_engines_could_have_generated_and_did_not():
    full, half = timeline(*steady(10, 100)), timeline(*steady(5, 100))
    assert idle([full], 10) == pytest.approx(0, abs=0.02)
    assert idle([half], 10) == pytest.approx(0.5, abs=0.02)
    assert idle([full, half], 10) == pytest.approx(0.25, abs=0.02)
    assert idle([TokenTimeline()], 10) is None and idle([], 10) is None


def test_a_slow_tail_counts_as_idle():
    assert idle([timeline(*steady(5, 100), *((5 + i / 20, 1) for i in range(100)))], 10) == pytest.approx(0.4, abs=0.02)
