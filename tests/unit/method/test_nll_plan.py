import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method.nll_plan import Row, plan

ROWS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 10), st.integers(0, 4)), max_size=14
).map(lambda sizes: [Row((i,) * c, (i,) * m, f"q{q}") for i, (c, m, q) in enumerate(sizes)])  # fmt: skip


def make_plan(rows, steps=1, ranks=1, **options):
    defaults = {"mean_over": "experiences", "questions": [4] * steps, "max_rows": 2, "max_tokens": None}
    return plan(rows, ranks=ranks, **(defaults | options))


@given(ROWS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([None, 16, 64]))
def test_every_row_once_and_ranks_in_step(rows, steps, ranks, max_rows, max_tokens):
    planned = make_plan(rows, steps, ranks, max_rows=max_rows, max_tokens=max_tokens)
    assert len(planned) == steps and all(len(step) == ranks for step in planned)
    flat = [w for step in planned for rank in step for batch in rank for w in batch]
    assert Counter(w.row for w in flat if w.weight > 0) == Counter(rows)
    for step in planned:
        assert len({len(rank) for rank in step}) == 1  # collectives must match
        batches = list(itertools.chain.from_iterable(step))
        assert all(0 < len(b) <= max_rows for b in batches)
        if max_tokens:
            assert all(len(b) == 1 or len(b) * max(len(w.row) for w in b) <= max_tokens for b in batches)
        if batches:
            assert sum(w.weight for b in batches for w in b) == pytest.approx(1)
    assert planned == make_plan(rows[::-1], steps, ranks, max_rows=max_rows, max_tokens=max_tokens)


@given(ROWS, st.integers(1, 4))
def test_mean_over_questions(rows, ranks):
    (step,) = make_plan(rows, ranks=ranks, mean_over="questions", questions=[8])
    per_question = Counter()
    for w in (w for rank in step for batch in rank for w in batch):
        per_question[w.row.question] += w.weight
    for question in {r.question for r in rows}:
        assert per_question[question] == pytest.approx(1 / 8)


@given(ROWS.filter(lambda rows: len(rows) > 3))
def test_tokens_are_balanced(rows):
    (step,) = make_plan(rows, ranks=2)
    loads = [sum(len(w.row) for batch in rank for w in batch if w.weight) for rank in step]
    assert abs(loads[0] - loads[1]) <= max(map(len, rows))


def test_no_rows_no_work():
    assert make_plan([], steps=2, ranks=3) == [[[], [], []], [[], [], []]]
