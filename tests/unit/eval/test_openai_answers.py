"""What a server of OpenAI's interface answers, read: whatever JSON it is."""

import email.utils
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.backends import openai_answers

pytestmark = pytest.mark.timeout(60)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "text",
                    "reasoning",
                    "reasoning_content",
                    "finish_reason",
                    "usage",
                    "completion_tokens",
                    "data",
                    "id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("tool_calls", "tool_calls"), ("eos_token", "eos_token"),
        ("SAFETY", "SAFETY"), ("max-steps.v2", "max-steps.v2"), (None, "unknown"), ("", "unknown"), (3, "unknown"), (["stop"], "unknown"),
        ("a b", "unknown"), ("\x1b[31mred", "unknown"), ("x" * 41, "unknown"), ("stop\n", "unknown"), ("sto\u0440", "unknown"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chat", [False, True])
def test_a_reason_is_the_servers_word(said, recorded, chat):
    said = {"choices": [{"message": {"content": "x"}, "text": "x", "finish_reason": said}]}
    assert openai_answers.read_completion(said, chat).finish_reason == recorded


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "a", "reasoning_content": "r"}, "a", "r"),
        ({"content": "a", "reasoning": "r"}, "a", "r"),
        ({"content": "a", "reasoning_content": "r", "reasoning": "r"}, "a", "r"),
        ({"content": None, "reasoning_content": "r"}, "", "r"),
        ({"content": "", "reasoning_content": "r"}, "", "r"),
        ({"reasoning_content": "r"}, "", "r"),  # a server that leaves out what is empty
        ({"content": "a", "reasoning_content": "\n\n"}, "a", "\n\n"),  # the parser has taken out an empty thinking
        ({"content": "a", "reasoning_content": ""}, "a", None),
        ({"content": "a", "reasoning_content": None, "reasoning": None}, "a", None),
        ({"content": "a", "reasoning": {"text": "r"}}, "a", None),
        ({"content": "a", "reasoning": "\ud800"}, "a", "?"),
    ],
)
def test_thinking_that_a_server_gives_apart(message, text, reasoning):
    found = openai_answers.read_completion({"choices": [{"message": message, "finish_reason": "length"}]}, chat=True)
    assert (found.text, found.reasoning, found.finish_reason) == (text, reasoning, "length")


def test_no_content_and_no_thinking_is_unusable():
    with pytest.raises(openai_answers.Unusable, match="without choices"):
        openai_answers.read_completion(
            {"choices": [{"message": {"reasoning": ""}, "finish_reason": "stop"}]}, chat=True
        )


def test_no_reason_at_all():
    assert openai_answers.read_completion({"choices": [{"text": "x"}]}, False).finish_reason == "unknown"


def test_retry_after():
    assert openai_answers.retry_after("1.5") == 1.5
    assert 50 < openai_answers.retry_after(email.utils.formatdate(time.time() + 60)) <= 60
    assert openai_answers.retry_after(email.utils.formatdate(time.time() - 60)) == 0
    for value in ("", "soon", "nan", "-3"):
        assert openai_answers.retry_after(value) == 0
    assert openai_answers.retry_after("1e99") == openai_answers.retry_after("inf") == 300


@given(JSON | JSON.map(lambda value: {"choices": [{"message": value, "text": "t"}], "usage": value}), st.booleans())
def test_any_json_is_read_or_unusable(data, chat):
    for read in (lambda: openai_answers.read_completion(data, chat), lambda: openai_answers.read_models(data)):
        try:
            result = read()
        except openai_answers.Unusable:
            continue
        if isinstance(result, openai_answers.Completion):
            result.text.encode()
            assert re.fullmatch(r"[A-Za-z][\w.-]{0,39}", result.finish_reason, re.ASCII)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b"<html>", b"1" * 10_000, b'{"a": '])
def test_no_json(content):
    with pytest.raises(openai_answers.Unusable, match="not JSON"):
        openai_answers.parse_json(content)
    assert isinstance(openai_answers.error_words(content), str)


def test_a_response_that_the_server_broke_off_is_unusable():
    with pytest.raises(openai_answers.Unusable, match="abort"):
        openai_answers.read_completion({"choices": [{"text": "half", "finish_reason": "abort"}]}, chat=False)
