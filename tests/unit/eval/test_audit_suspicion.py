"""eval/auditing/suspicion.py: every response is in exactly one class, the first whose rule fits."""

import itertools

import pytest
from evaluation_folder import sample

from eval.auditing import suspicion
from eval.auditing.suspicion import CLASSES, classify
from eval.messages import Question
from eval.store import Sample
from openrlhf_mel.verifier import CHOICE, STATUSES

pytestmark = pytest.mark.timeout(60)
ASKED = Question("b", "q", "What is 1 + 1?", "2")


def drawn(**more):
    """A response's row, and nothing that another one answers."""
    return Sample(**sample("q", 0, False, **more))


def rejected(extracted="77", status="wrong", **more):
    return drawn(
        **({"status": status, "extracted": extracted, "lenient_status": "wrong", "lenient_extracted": "77"} | more)
    )


@pytest.mark.parametrize(
    "row, found",
    [
        (drawn(), suspicion.OTHER_ACCEPTED),
        (drawn(extracted="2.0"), suspicion.OTHER_ACCEPTED),
        (drawn(extracted="1+1"), suspicion.UNLIKE),
        (drawn(extracted="1+1", lenient_status="no_answer"), suspicion.LENIENT_REJECTS),
        (rejected(), suspicion.OTHER_REJECTED),
        (rejected("20"), suspicion.NEAR_MISS),
        (rejected("20", lenient_status="correct"), suspicion.LENIENT_ACCEPTS),
        (rejected("2", "timeout", lenient_status="correct"), suspicion.TIMEOUT),
        (rejected("2", "error"), suspicion.ERROR),
        (rejected(None, "no_answer", response="No idea."), suspicion.OTHER_REJECTED),
        (rejected(None, "no_answer", response="So it is 2, I think."), suspicion.NEAR_MISS),
    ],
)
def test_the_class_of_a_response(row, found):
    assert classify(ASKED, [row]) == [found]


def test_the_most_frequent_answer_against_the_reference():
    rows = [rejected("77"), rejected("77.0"), rejected("77"), drawn(), drawn(extracted="1+1"), rejected("31")]
    majority, outvoted = suspicion.MAJORITY, suspicion.OUTVOTED
    assert classify(ASKED, rows) == [majority, majority, majority, outvoted, outvoted, suspicion.OTHER_REJECTED]


def test_a_tie_and_a_single_vote_are_no_majority():
    tie = [rejected("77"), rejected("77"), drawn(), drawn()]
    assert classify(ASKED, tie) == [suspicion.OTHER_REJECTED] * 2 + [suspicion.OTHER_ACCEPTED] * 2
    assert classify(ASKED, [rejected("77")]) == [suspicion.OTHER_REJECTED]
    silent = [rejected(None, "no_answer", response="?") for _ in range(3)]
    assert classify(ASKED, silent) == [suspicion.OTHER_REJECTED] * 3


def test_the_options_of_a_choice_are_compared_as_options():
    asked = Question("b", "q", "Where?\nA. Rome\nB. Paris", "B", scorer=CHOICE)
    assert classify(asked, [drawn(extracted="Paris")]) == [suspicion.OTHER_ACCEPTED]


def test_every_response_is_in_one_class_of_its_side():
    for status, lenient, extracted in itertools.product(STATUSES, STATUSES, (None, "2", "20", "x+y")):
        row = drawn(status=status, lenient_status=lenient, extracted=extracted)
        for others in ([], [rejected("8"), rejected("8")]):
            found = classify(ASKED, [row, *others])
            assert found[0] in CLASSES and found[0].accepted == (status == "correct") and len(found) == 1 + len(others)
