"""The Ms that a checkpoint carries over."""

import json

from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method import metrics
from openrlhf_mel.method.experience import ContrastivePair, Group, MetaExperience, Trajectory
from openrlhf_mel.run import carried_experiences, records
from openrlhf_mel.verifier import Reference

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.lists(st.integers(0, 2**31), max_size=8).map(tuple)
TRAJECTORIES = st.builds(Trajectory, IDS, TEXT, st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0])), st.just(False))
ANSWERS = st.one_of(TEXT, st.builds(Reference, TEXT, TEXT, TEXT))


@st.composite
def candidates(draw):
    group = draw(
        st.builds(Group, st.integers(0, 99), TEXT, ANSWERS, st.tuples(TRAJECTORIES, TRAJECTORIES, TRAJECTORIES))
    )
    pair = ContrastivePair(*draw(st.permutations(group.trajectories))[:2])
    return MetaExperience(group, pair, draw(IDS), draw(IDS), draw(TEXT), leaked=draw(st.sampled_from([None, True, False])),
                          carries=draw(st.integers(1, 3)))  # fmt: skip


@given(candidates())
def test_a_construction_goes_on_from_a_file_as_from_memory(m):
    back = carried_experiences.from_row(json.loads(json.dumps(carried_experiences.to_row(m))))
    assert (back.context_ids, back.token_ids, back.text, back.leaked, back.carries, back.kept) == (
        m.context_ids, m.token_ids, m.text, m.leaked, m.carries, True,
    )  # fmt: skip
    assert (type(back.group.answer), vars(back.group.answer) if isinstance(m.group.answer, Reference) else None) == (
        type(m.group.answer), vars(m.group.answer) if isinstance(m.group.answer, Reference) else None,
    )  # fmt: skip
    assert back.group.success_rate(1.0) == m.group.success_rate(1.0)
    back.replay_scores = m.replay_scores = [1.0]
    assert metrics.replay_gain(back, 1.0) == metrics.replay_gain(m, 1.0)
    assert records.archive_row(back, 7) == records.archive_row(m, 7)
    assert records.archive_row(m, 7)["drawn_step"] == m.group.rollouts_before + 1


def test_they_are_a_file_of_the_checkpoint_or_none(tmp_path):
    pair = Trajectory((1, 2), "\u2028right", 1.0), Trajectory((3,), "wrong", 0.0)
    rows = [carried_experiences.to_row(MetaExperience(Group(3, "q", "7", pair), ContrastivePair(*pair), carries=1))]
    carried_experiences.write(tmp_path, [])
    assert list(tmp_path.iterdir()) == [] and carried_experiences.read(tmp_path) == []
    carried_experiences.write(tmp_path, rows)
    assert [path.name for path in tmp_path.iterdir()] == [carried_experiences.FILE]
    assert carried_experiences.read(tmp_path) == json.loads(json.dumps(rows))
