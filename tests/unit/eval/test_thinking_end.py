"""eval/thinking_end.py: the end tag of thinking that prompts open, what settings record of it, and what it changes."""

import pytest
from evaluation_folder import sample as line
from hypothesis import given
from hypothesis import strategies as st

from eval import thinking_end
from eval.grading import judge, judged_as_thinking, regraded
from eval.messages import Question
from eval.store import ReasonedSample, Sample
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import Verifier

pytestmark = pytest.mark.timeout(60)

END = "</think>"


def sample(response: str, reasoning: str | None = None, **more) -> Sample:
    row = line("q", 0, response=response, **more)
    return Sample(**row) if reasoning is None else ReasonedSample(**row, reasoning=reasoning)


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=1) as started:
        yield started


@pytest.mark.parametrize(
    ("flag", "value"),
    [("auto", "auto"), ("NONE", "none"), ("</think>", END), (" </Think> ", END), ("[/THINK]", "[/think]")],
)
def test_flags(flag, value):
    assert thinking_end.checked(flag) == value


@pytest.mark.parametrize("flag", ["", "<think>", "think", "</thoughtful>", "</think"])
def test_a_tag_that_ends_no_thinking_is_refused(flag):
    with pytest.raises(UserError, match=r"--thinking-end .*: unknown; expected auto, none, or a tag .* </think>"):
        thinking_end.checked(flag)


@pytest.mark.parametrize(
    ("flag", "of_template", "expected"),
    [
        ("auto", None, {}),
        ("auto", END, {"thinking_end": END}),
        ("none", None, {}),
        ("none", END, {"thinking_end": None}),
        (END, None, {"thinking_end": END}),
        ("[/think]", END, {"thinking_end": "[/think]"}),
    ],
)
def test_what_is_recorded(flag, of_template, expected):
    found = thinking_end.recorded(flag, of_template)
    assert found == expected
    assert thinking_end.recorded_end({"template": {"name": "x"} | found}) == expected.get("thinking_end")


@pytest.mark.parametrize("damaged", [[], {}, {"template": []}, {"template": {"thinking_end": 3}}, {"template": None}])
def test_damaged_settings_record_none(damaged):
    assert thinking_end.recorded_end(damaged) is None
    assert thinking_end.with_end(damaged, {"template": {"thinking_end": END}}) is damaged


def test_settings_from_before_get_the_end_of_the_command():
    old, known = {"template": {"chat": True}, "seed": 0}, {"template": {"chat": True, "thinking_end": END}}
    assert thinking_end.with_end(old, known) == old | known
    assert thinking_end.with_end(old, {"template": {"chat": True}}) is old
    off = {"template": {"thinking_end": None}}  # switched off by the user
    assert thinking_end.with_end(off, known) is off


@pytest.mark.parametrize(
    ("response", "reasoning", "end", "unfinished", "seen"),
    [
        ("so \\boxed{2}", None, None, False, False),
        ("so \\boxed{2}", None, END, True, False),
        ("so </think> \\boxed{2}", None, END, False, True),
        ("<think> so", None, None, True, True),
        ("<think> so </think> <think>", None, None, True, True),
        ("", "so", None, True, True),
        (" \n", "so", END, True, True),
        ("\\boxed{2}", "so", END, False, True),  # the server has taken the marks out
        ("<think> again", "so", None, True, True),
        ("", None, None, False, False),
        ("", None, END, True, False),
    ],
)
def test_what_ends_inside_its_thinking(response, reasoning, end, unfinished, seen):
    own = sample(response, reasoning)
    assert thinking_end.unfinished(own, end) is unfinished and thinking_end.seen(own) is seen


PIECES = st.sampled_from(["<think>", "</think>", "\\boxed{2}", "\\boxed{3}", " so ", "[/REASON]", "\u200b"])


@pytest.mark.parametrize("scorer", ["math", "choice"])
@given(response=st.lists(PIECES, max_size=6).map("".join), reasoning=st.sampled_from([None, "so"]))
def test_earlier_samples_get_the_verdict_of_new_ones(verifier, scorer, response, reasoning):
    question = Question(
        "b",
        "q",
        "What?\nA. 2\nB. 3" if scorer == "choice" else "What?",
        "A" if scorer == "choice" else "2",
        scorer=scorer,
    )
    drawn = sample(response, reasoning)
    before = regraded(drawn, *judge(verifier, [(response, question)])[0])
    opening = thinking_end.opening(END, reasoning)
    expected = regraded(drawn, *judge(verifier, [(response, question)], [opening])[0])
    assert judged_as_thinking(before, scorer, END) == expected
    assert judged_as_thinking(expected, scorer, END) is expected or expected == judged_as_thinking(
        expected, scorer, END
    )
