from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.method import experience
from openrlhf_mel.method.experience import ContrastivePair, Group, Trajectory
from openrlhf_mel.verifier import Reference

HEADINGS = {"failure path": "bifurcation_point", "success factors": "critique", "reflection": "critique",
            "heuristics": "heuristic"}  # fmt: skip
GOOD = """Some words first.
## 1. Failure path
At step 2 it went wrong.
## 2. Success factors
It checked.
## 3. Reflection:
I will check.
## 4. Heuristics
[check]: if unsure, then check."""


def trajectory(i: int, score: float | None, truncated: bool = False, length: int = 3) -> Trajectory:
    return Trajectory(tuple([i] * length), f"text {i}", score, truncated)


def group(scores, step=0, question="q") -> Group:
    return Group(step, question, "42", tuple(trajectory(i, s) for i, s in enumerate(scores)))


def test_split_leaves_truncated_and_unjudged_out():
    members = (trajectory(0, 1.0), trajectory(1, 1.0, truncated=True), trajectory(2, 0.0), trajectory(3, 0.0, True),
               trajectory(4, None))  # fmt: skip
    correct, incorrect = Group(0, "q", "a", members).split(1.0)
    assert [t.token_ids[0] for t in correct] == [0]
    assert [t.token_ids[0] for t in incorrect] == [2]
    assert Group(0, "q", "a", members).success_rate(1.0) == 2 / 5


@pytest.mark.parametrize("scores", [[1, 1, 1], [0, 0, 0], [None, 1], [None, 0], [None, None]])
@pytest.mark.parametrize("selection", ["uniform", "shortest", "common_prefix"])
def test_a_group_that_is_not_mixed_gives_no_pair(scores, selection):
    assert experience.choose_pairs(group(scores), 3, selection, 1.0, 0) == []


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8), st.integers(1, 20), st.randoms())
def test_pairs_depend_on_the_responses_not_on_their_order(scores, count, rng):
    first = group(scores)
    shuffled = list(first.trajectories)
    rng.shuffle(shuffled)
    second = Group(first.rollouts_before, first.question, first.answer, tuple(shuffled))
    for selection in ("uniform", "shortest", "common_prefix"):
        pairs = experience.choose_pairs(first, count, selection, 1.0, 7)
        assert pairs == experience.choose_pairs(second, count, selection, 1.0, 7)
        possible = sum(scores) * (len(scores) - sum(scores))
        assert len(pairs) == len(set(pairs)) == min(count, possible)
        assert all(p.correct.score == 1 and p.incorrect.score == 0 for p in pairs)


def test_uniform_pairs_are_even():
    # 2 right, 3 wrong: 6 pairs, each expected 1,000 times in 6,000 questions (standard deviation 29).
    counts = Counter(
        experience.choose_pairs(group([1, 1, 0, 0, 0], question=f"q{i}"), 1, "uniform", 1.0, 0)[0] for i in range(6000)
    )
    assert len(counts) == 6 and all(850 < n < 1150 for n in counts.values())


def test_equal_responses_count_as_often_as_they_were_given():
    # Seven equal right answers and another one: the first is drawn 7 times in 8 (standard deviation 0.0074).
    drawn = 0
    for i in range(2000):
        members = (*[trajectory(0, 1.0)] * 7, trajectory(1, 1.0), trajectory(2, 0.0))
        (pair,) = experience.choose_pairs(Group(0, f"q{i}", "a", members), 1, "uniform", 1.0, 0)
        drawn += pair.correct.token_ids[0] == 0
    assert 0.845 < drawn / 2000 < 0.905


def test_pairs_change_with_seed_and_step():
    draws = {
        tuple(experience.choose_pairs(group([1] * 4 + [0] * 4, step=step), 1, "uniform", 1.0, seed))
        for seed in range(4)
        for step in range(4)
    }
    assert len(draws) > 5


def test_shortest_and_common_prefix():
    members = (
        Trajectory((1, 2, 3, 4), "a", 1.0),
        Trajectory((9,), "b", 1.0),
        Trajectory((1, 2, 3, 5, 6), "c", 0.0),
        Trajectory((8, 8), "d", 0.0),
    )
    g = Group(0, "q", "a", members)
    (short,) = experience.choose_pairs(g, 1, "shortest", 1.0, 0)
    (prefix,) = experience.choose_pairs(g, 1, "common_prefix", 1.0, 0)
    assert short == ContrastivePair(members[1], members[3])
    assert prefix == ContrastivePair(members[0], members[2])


def test_reads_the_three_parts():
    assert experience.read_sections(GOOD, HEADINGS) == {
        "bifurcation_point": "At step 2 it went wrong.",
        "critique": "It checked.\nI will check.",
        "heuristic": "[check]: if unsure, then check.",
    }


@pytest.mark.parametrize("style", ["**{}**", "### {}:", "  # {}", "2) {}", "** 3. {} :**", "{}"])
def test_headings_in_other_dress(style):
    text = "".join(f"{style.format(h.upper())}\nbody {i}\n" for i, h in enumerate(HEADINGS))
    parts = experience.read_sections(text, HEADINGS)
    assert parts == {"bifurcation_point": "body 0", "critique": "body 1\nbody 2", "heuristic": "body 3"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.replace("## 3. Reflection:", ""),
        GOOD.replace("It checked.\n", ""),
        GOOD.split("[check]")[0],
        GOOD.replace("Reflection:", "Reflectional"),
        "the failure path, success factors, reflection and heuristics",
        "\n".join(reversed(GOOD.splitlines())),
    ],
)
def test_missing_empty_or_misplaced_sections(text):
    assert experience.read_sections(text, HEADINGS) is None


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text", ["#" * 200_000, "* " * 100_000, "1." * 100_000, "\n" * 200_000, "failure path" * 20_000]
)
def test_hostile_text_does_not_stall_the_reader(text):
    assert experience.read_sections(text, HEADINGS) is None


@pytest.mark.parametrize(
    ("text", "question", "answer", "expected"),
    [
        ("the answer is 42.", "how many?", "42", True),
        ("the answer is 42", "of 42 sheep", "42", False),
        ("142 and 421 and 4.42", "how many?", "42", False),
        ("42.5", "how many?", "42", False),
        ("x42", "how many?", "42", False),
        ("it is 7", "how many?", "7", None),
        (r"so \frac{1}{2} it is", "how many?", r"\frac{1}{2}", True),
        ("no", "how many?", " 42 ", False),
    ],
)
def test_leaks(text, question, answer, expected):
    assert experience.leaks(text, question, answer) is expected


CAPITAL = "Capital of France?\nA. Rome\nB. Paris"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (B).", True),
        ("the answer is B because it is the capital", True),
        ("The correct answer is **B**.", True),
        ("so the answer should be option B", True),
        ("The answer: Paris, as the map shows", True),
        ("(B) is correct", True),
        ("I took A, but B is the right answer", True),
        ("The answer is not B", False),
        ("The answer is A", False),
        ("The answer is a city of the north", False),
        ("Compare Paris (B) with Rome (A) on a map first", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("gold", ["B", "(B)", "Paris"])
def test_an_m_leaks_an_option_where_it_says_that_it_is_right(text, expected, gold):
    assert experience.leaks(text, CAPITAL, Reference(gold, "choice", CAPITAL)) is expected


def test_a_leak_cannot_be_told_where_the_reference_names_no_option():
    assert experience.leaks("The answer is B", CAPITAL, Reference("Madrid", "choice", CAPITAL)) is None


def test_an_article_is_no_option():
    gold = Reference("A", "choice", CAPITAL)
    assert [experience.leaks(f"The answer is A {rest}", CAPITAL, gold) for rest in ("city", "because of it")] == [
        False,
        True,
    ]
