"""Math-Verify and latex2sympy2_extended still behave as the verifier relies on."""

import inspect
import signal
import threading
from importlib.metadata import version

import math_verify
import pytest
from latex2sympy2_extended.logic import And
from latex2sympy2_extended.sets import FiniteSet
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException
from sympy import Eq, Integer, Symbol
from sympy import FiniteSet as SympyFiniteSet

pytestmark = pytest.mark.timeout(60)
BOXED = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]


def test_versions_that_were_measured() -> None:
    assert version("math-verify").startswith("0.9.")
    assert version("latex2sympy2_extended").startswith("1.11.")


def test_signatures() -> None:
    assert {"pred", "extraction_config", "parsing_timeout"} <= set(inspect.signature(parse).parameters)
    assert {"gold", "target", "timeout_seconds", "allow_set_relation_comp"} <= set(inspect.signature(verify).parameters)
    fields = set(inspect.signature(LatexExtractionConfig).parameters)
    assert {"boxed_match_priority", "try_extract_without_anchor"} <= fields
    assert math_verify.parse is parse


def test_parse_gives_an_expression_and_the_text_it_was_read_from() -> None:
    assert parse("\\boxed{7}", BOXED, parsing_timeout=None) == [Integer(7), "7"]
    assert parse("so it is $7$", BOXED, parsing_timeout=None) == []


def test_without_a_time_limit_it_leaves_the_alarm_alone_and_works_in_threads() -> None:
    before = signal.getsignal(signal.SIGALRM)
    signal.alarm(50)
    try:
        found = []
        thread = threading.Thread(
            target=lambda: found.append(
                verify(parse("$1/2$", parsing_timeout=None), Integer(1) / 2, timeout_seconds=None)
            )
        )
        thread.start()
        thread.join(20)
        assert found == [True]
        verify(parse("$1/2$", parsing_timeout=None), Integer(1), timeout_seconds=None)
        assert signal.alarm(0) > 0, "the outer alarm was cancelled"
        assert signal.getsignal(signal.SIGALRM) is before
    finally:
        signal.alarm(0)


def test_its_timeout_is_not_an_exception() -> None:
    """So `except Exception`, in sympy or in the worker, does not swallow it."""
    assert not issubclass(TimeoutException, Exception)


def test_chains_and_sets_have_the_form_that_the_repairs_read() -> None:
    chain = parse("\\boxed{x = 5+6 = 11}", BOXED, parsing_timeout=None)[0]
    assert isinstance(chain, And)
    assert [type(link) for link in chain._unsorted_args] == [Eq, Eq]
    assert chain._unsorted_args[0].lhs == Symbol("x", real=True)
    assert chain._unsorted_args[-1].rhs == 11
    assert issubclass(FiniteSet, SympyFiniteSet)
    assert isinstance(parse("\\boxed{2,3}", BOXED, parsing_timeout=None)[0], SympyFiniteSet)


@pytest.mark.parametrize(
    ("gold", "answer"), [("50", "50\\%"), ("7", "8=7"), ("10^{-400}", "10^{-401}"), ("52_8", "52_{10}")]
)
def test_the_wrong_equalities_that_are_repaired_are_still_there(gold: str, answer: str) -> None:
    """When one of these fails, Math-Verify has fixed the error, and the repair can be removed."""
    first, second = (parse(f"\\boxed{{{text}}}", BOXED, parsing_timeout=None) for text in (gold, answer))
    assert verify(first, second, timeout_seconds=None)
