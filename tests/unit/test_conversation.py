"""A conversation stored as text is parsed or refused; a question that only looks like one is kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.conversation import Unreadable, user_message
from openrlhf_mel.prompts import question_of

QUESTION = "How many edges has a cube?"
MESSAGE = {"role": "user", "content": QUESTION}


@pytest.mark.parametrize(
    "value",
    [
        [MESSAGE], json.dumps([MESSAGE]), repr([MESSAGE]), json.dumps([MESSAGE], indent=2), repr((MESSAGE,)),
        repr([dict(reversed(MESSAGE.items()))]), json.dumps([MESSAGE | {"name": None, "ok": True}]),
        repr([MESSAGE | {"name": None, "ok": True, "n": 1.5}]), "\ufeff" + json.dumps([MESSAGE]), f" {[MESSAGE]}\n",
        json.dumps([MESSAGE], separators=(",", ":")), "[{'role':'user','content':\n'How many edges has a cube?'}]",
    ],
    ids=range(12),
)  # fmt: skip
def test_a_conversation_of_one_user_message_is_its_text(value):
    assert user_message(value) == question_of(value) == QUESTION


@given(st.text())
def test_any_text_comes_back_from_either_way_of_writing(text):
    message = [{"role": "user", "content": text}]
    assert user_message(json.dumps(message)) == user_message(json.dumps(message, ensure_ascii=False)) == text
    assert user_message(repr(message)) == text


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "s"}, MESSAGE], [MESSAGE, {"role": "assistant", "content": "12"}],
        [{"role": "assistant", "content": "12"}], MESSAGE, {"messages": [MESSAGE]}, [[MESSAGE]],
        [{"from": "human", "value": QUESTION}], [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    ],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("write", [json.dumps, repr])
def test_another_conversation_is_no_question(messages, write):
    assert not isinstance(user_message(write(messages)), str) and question_of(write(messages)) is None


@pytest.mark.parametrize(
    "text",
    [
        f"array([{MESSAGE}], dtype=object)", f"np.array([{MESSAGE}])", f"[{MESSAGE}\n {MESSAGE}]", repr([MESSAGE])[:-4],
        json.dumps([MESSAGE])[:30], json.dumps(json.dumps([MESSAGE])), json.dumps([MESSAGE])[:-1] + "]]", f"{[MESSAGE]} {[MESSAGE]}",
        json.dumps([MESSAGE]) + "\n" + json.dumps([MESSAGE]), '[{"role": "user", "content": "\\ud800"}]',
        "[{'role': 'user', 'content': '\\udfff'}]", "[{'role': 'user', 'content': '\\d'}]", "[{'role': 'user', 'content': '\\U00110000'}]",
        "[{'role': 'user', 'content': f(1)}]", "[{'role': __import__('os').getcwd(), 'content': 'q'}]", "[{'role': np.str_('user'), 'content': 'q'}]",
    ],
    ids=range(16),
)  # fmt: skip
def test_what_begins_as_a_conversation_and_cannot_be_read_is_refused(text):
    with pytest.raises(Unreadable, match="begins as a conversation does"):
        user_message(text)
    assert question_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3] is a list. What is its sum?", "{1,2,3} is a set.", "[0, 1] is an interval: how long is it?", "(a) What is the role of $x$?",
        '{"a": 1, "b": 2} has how many keys?', '{"a": 1, "b": 2}', "[{'a': 1}]", "{x : x > 0} has which infimum?", "[x] In the JSON {\"role\": 1}, what is \"role\"?",
        "The \"role\": is it a user's or content?", '[{"role": "user"}] is JSON. How many keys has it?', "[{'role': 'x'}] How many keys does Python's dict have?",
        f"{[MESSAGE]}, how many characters is that?", f"Read {json.dumps([MESSAGE])} and count.", "[]", "{}", "", "\\[ x = 1 \\]", "$\\{1, 2\\}$", "[asy] draw(); [/asy]",
        '"[1, 2]"', "array([1, 2]) has which shape?", "{'from': 1} maps one key.", "[" * 50, "[{", "{'role'", "\ufeff[1] x", " [2] y ",
    ],
)  # fmt: skip
def test_a_question_stays_as_it_is(text):
    assert user_message(text) == text


@pytest.mark.parametrize("value", [None, 3, [], [1], {"role": "user"}, [None], [MESSAGE, MESSAGE], 2.5, b"x"])
def test_other_values_stay_as_they_are(value):
    assert user_message(value) == value


HOSTILE = {
    "nested lists": '[{"role":' + "[" * 500_000, "nested objects": '[{"role":' * 100_000, "nested reprs": "[{'role':" * 100_000,
    "quotes": "[{'role': " + "'\\'" * 200_000, "escapes": "[{'role': '" + "\\'" * 500_000, "two kinds": "[{'role': " + "\"\"''" * 50_000,
    "brackets": "[{'role':" + "(" * 500_000, "closing": "[{'role':" + ",  )" * 200_000, "commas": "[{'role':" + "," * 500_000,
    "spaces": "[{'role':," + " " * 500_000, "spaces before": "[" + " " * 500_000 + "{'role':", "spaces behind": "[{'role'" + " " * 500_000,
    "many keys": "[{" + "'from':" * 100_000, "digits": '[{"role": ' + "9" * 500_000 + "}]", "minus": "[{'role':" + "-" * 500_000,
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_takes_long(text):
    """A quadratic algorithm would take minutes on these; the test's time limit is the check."""
    assert question_of(text) in (None, text)
