"""verifier/thinking.py: which thinking a prompt leaves open, and which responses end inside theirs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.verifier import ends_in_thinking, has_thinking, left_open, opening_mark, verify
from openrlhf_mel.verifier.thinking import MARKS

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_every_mark_has_its_partner(opening, closing):
    assert left_open(f"<|assistant|>{opening}\n") == closing
    assert opening_mark(closing) == opening_mark(closing.upper()) == opening
    assert opening_mark(opening) is None
    assert ends_in_thinking(f"{opening} so 2") and not ends_in_thinking(f"{opening} so {closing} 2")


@pytest.mark.parametrize(
    ("prompt", "end"),
    [
        ("<|im_start|>assistant\n", None),
        ("<|im_start|>assistant\n<think>\n", "</think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),  # Qwen3 with its thinking switched off
        ("<think></think><THINK>", "</think>"),
        ("<think> [THINK]", "[/think]"),
        ("", None),
    ],
)
def test_the_last_mark_of_a_prompt_decides(prompt, end):
    assert left_open(prompt) == end


def test_invisible_characters_hide_no_mark():
    assert has_thinking("é <th\u200bink> 2") and ends_in_thinking("é <th\u200bink> 2")
    assert not has_thinking("é think 2") and not ends_in_thinking("é 2")


PIECES = st.sampled_from(["<think>", "</think>", "[/THINK]", "\\boxed{2}", " so ", "é", "\u200b", "<thi"])


@given(st.lists(PIECES, max_size=8).map("".join))
def test_an_opening_mark_in_front_changes_only_responses_without_any_mark(response):
    """This is the rule by which earlier evaluations are judged again without the verifier."""
    plain, opened = verify(response, "2"), verify(f"<think>{response}", "2")
    if has_thinking(response):
        assert plain == opened
    else:
        assert opened.status == "no_answer" and ends_in_thinking(f"<think>{response}")
