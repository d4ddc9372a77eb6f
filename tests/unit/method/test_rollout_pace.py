"""`RolloutPace`: by the rollout before, is there time to write an M?"""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method.rollout_pace import RolloutPace

pytestmark = pytest.mark.timeout(60)
TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=40).map(sorted)


def paced(finished, writing):
    pace = RolloutPace()
    for seconds in finished:
        pace.finish_group(seconds)
    pace.end_rollout(writing)
    return pace


def test_the_same_point_of_the_rollout_before_decides():
    pace = paced([10, 20, 50, 90], [30, 40, 500])  # the median Ms took 40 s
    assert [pace.leaves_time(missing) for missing in (3, 2, 1, 0)] == [True, True, True, False]
    pace.end_rollout([41])  # a rollout without groups says nothing of the next one
    assert pace.leaves_time(0)


@pytest.mark.parametrize(("finished", "writing"), [([], [5]), ([1, 2], [])])
def test_what_nothing_is_known_of_is_begun(finished, writing):
    assert all(paced(finished, writing).leaves_time(missing) for missing in range(4))


def test_a_rollout_without_written_ms_keeps_the_time_that_they_took():
    pace = paced([10, 90], [40])
    for seconds in (1, 31):
        pace.finish_group(seconds)
    assert pace.leaves_time(1), "the rollout that is under way does not count"
    pace.end_rollout([])
    assert not pace.leaves_time(1)


def test_a_short_rollout_says_nothing_of_the_pace():
    pace = paced([10, 60, 90], [40])
    pace.finish_group(5)
    pace.end_rollout([35], full=False)
    assert [pace.leaves_time(missing) for missing in (2, 1, 0)] == [True, False, False]


@given(TIMES, st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 60))
def test_fewer_missing_groups_never_leave_more_time(finished, writing, missing):
    pace = paced(finished, writing)
    assert pace.leaves_time(missing) or not pace.leaves_time(max(0, missing - 1))
    assert pace.leaves_time(0) == (median(writing) == 0)
    assert pace.leaves_time(len(finished))  # earlier than all that is known
