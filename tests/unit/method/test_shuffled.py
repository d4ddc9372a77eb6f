from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method.experience import ContrastivePair, Group, MetaExperience, Trajectory
from openrlhf_mel.method.shuffled import shuffle_experiences

PAIR = ContrastivePair(Trajectory((0,), "right", 1.0, False), Trajectory((1,), "wrong", 0.0, False))


def kept(question: str, i: int) -> MetaExperience:
    return MetaExperience(Group(0, question, "a", ()), PAIR, (i,), (i,))


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(0, 9))
def test_shuffled_control_never_gives_a_question_its_own(questions, seed):
    experiences = [kept(f"q{q}", i) for i, q in enumerate(questions)]
    owner = {m.token_ids: m.group.question for m in experiences}
    rows = shuffle_experiences(experiences, seed, 3)
    assert all(owner[m.token_ids] != m.group.question for m in rows)
    assert len({m.token_ids for m in rows}) == len(rows)
    if questions and 2 * max(Counter(questions).values()) <= len(questions):
        assert len(rows) == len(experiences)
