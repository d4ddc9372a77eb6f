"""eval/response_room.py: responses fit beside every prompt, by one length for all of an evaluation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.messages import Room, Sampling
from eval.response_room import check_room, shortened
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)


def room(positions: int, prompt: int) -> Room:
    return Room(positions, prompt, "question q of b")


def test_the_largest_that_fits_is_named():
    check_room(32_456, room(32_768, 312))
    with pytest.raises(
        UserError,
        match=r"^--max-tokens 32768: the model's context holds 32768 tokens, and the longest prompt \(question q of b\) has "
        r"312; pass --max-tokens 32456 or less, or --shorten$",
    ):
        check_room(32_768, room(32_768, 312))
    with pytest.raises(UserError, match=r"has 40; leave the question out$"):
        check_room(1, room(40, 40))


@pytest.mark.parametrize(
    ("asked", "prompt", "earlier", "expected"),
    [
        (50, 20, {}, (50, None)),
        (80, 20, {}, (80, None)),
        (90, 20, {}, (80, 90)),
        (90, 10, {"max_tokens": 80, "shortened_from": 90}, (80, 90)),  # fewer questions: the folder's value stays
        (90, 30, {"max_tokens": 80, "shortened_from": 90}, (70, 90)),  # a longer prompt: no longer the folder's value
        (90, 10, {"max_tokens": 80}, (90, None)),  # it was not shortened
        (95, 10, {"max_tokens": 80, "shortened_from": 90}, (90, 95)),  # from another length
        (90, 20, {"max_tokens": "80", "shortened_from": 90}, (80, 90)),  # damaged
        (90, 20, {"max_tokens": -1, "shortened_from": 90}, (80, 90)),
    ],
)
def test_shortened(asked, prompt, earlier, expected):
    found = shortened(Sampling(0.6, 1.0, asked), room(100, prompt), earlier)
    assert (found.max_tokens, found.shortened_from) == expected


def test_a_room_that_is_not_known_shortens_nothing():
    assert shortened(Sampling(0.6, 1.0, 10**6), None, {}) == Sampling(0.6, 1.0, 10**6)


def test_a_prompt_that_fills_the_model_is_refused():
    with pytest.raises(UserError, match="leave the question out"):
        shortened(Sampling(0.6, 1.0, 5), room(100, 100), {})


@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 200))
def test_what_is_shortened_fits_and_nothing_longer_does(asked, positions, prompt):
    beside = room(positions, prompt)
    if beside.tokens < 1:
        return
    found = shortened(Sampling(0.6, 1.0, asked), beside, {})
    check_room(found.max_tokens, beside)
    assert found.max_tokens == asked or found.max_tokens + prompt == positions
