"""How an answer is judged, by its kind: `math`, `choice`, or a function of the user's own.

A scorer compares a response's final answer with the reference answer (the gold). It decides in the calling process what
is cheap, and leaves the rest to a worker process, which may be killed.
"""

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, Protocol

from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import choice
from openrlhf_mel.verifier.costly import too_costly
from openrlhf_mel.verifier.exact import Number, parse_number, same_number
from openrlhf_mel.verifier.notation import canonical
from openrlhf_mel.verifier.readings import key_of
from openrlhf_mel.verifier.verdict import Status

MATH, CHOICE = "math", "choice"
SCORER = "scorer"  # the column of prepared rows that names their scorer; without it they are `math`
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*[.:][^\W\d]\w*")
_NUMPY_BOOLS = {("numpy", "bool"), ("numpy", "bool_")}  # by name: NumPy is not imported for it
_EXPECTED = "a function of (answer, gold, question) that returns True or False"


class Reference(str):
    """A reference answer that names its scorer and the question that it answers.

    It is the answer's text wherever a text is expected, so it travels as a label does: through OpenRLHF, to the engines,
    to the verifier. A plain text is a reference answer of `math`.
    """

    scorer: str
    question: str

    def __new__(cls, answer: str, scorer: str = MATH, question: str = "") -> "Reference":
        """Raises TypeError where one of the three is no text."""
        for name, given in (("answer", answer), ("scorer", scorer), ("question", question)):
            if not isinstance(given, str):
                raise TypeError(f"{name}: found {given!r:.60}, expected a text")
        reference = super().__new__(cls, answer)
        reference.scorer, reference.question = scorer, question
        return reference


class Scorer(Protocol):
    """What compares answers of one kind. `answer` and `gold` come without their box; `question` may be empty."""

    def decide(self, answer: str, gold: str, question: str) -> Status | None:
        """The verdict, if it can be decided without a worker; else None. In the calling process, in bounded time."""

    def judge(self, answer: str, gold: str, question: str) -> Status:
        """The verdict. In a worker."""

    def check(self, gold: str, question: str) -> str | None:
        """Why `gold` cannot be used, "" where it can, None where a worker has to say. In the calling process."""

    def fault(self, gold: str, question: str) -> str:
        """Why `gold` cannot be used, "" where it can. In a worker."""


class Math:
    """Numbers, expressions, and words beside them: Math-Verify, and the repairs around it."""

    def decide(self, answer: str, gold: str, question: str) -> Status | None:
        """Equal texts and numbers are decided here, and what would be too costly is no verdict."""
        if gold == answer:
            return "correct"
        gold_number = plain_number(gold)
        answer_number = plain_number(answer) if gold_number else None
        if gold_number and answer_number:
            return "correct" if same_number(gold_number, answer_number) else "wrong"
        return "error" if too_costly(canonical(answer)) or too_costly(canonical(gold)) else None

    def judge(self, answer: str, gold: str, question: str) -> Status:
        """By computer algebra."""
        from openrlhf_mel.verifier import comparison

        return comparison.judge_anchored(gold, answer)

    def check(self, gold: str, question: str) -> str | None:
        """A number can be used, and what would be too costly cannot."""
        if plain_number(gold):
            return ""
        reason = too_costly(canonical(gold))
        return f"found {gold!r:.80}, which is too costly to compare: {reason}" if reason else None

    def fault(self, gold: str, question: str) -> str:
        """It has to have a mathematical reading that is equal to itself."""
        from openrlhf_mel.verifier import comparison, words

        if strange := words.strange(gold):
            return f"found {gold!r:.80}, which is no mathematics ({', '.join(strange)[:80]})"
        return "" if comparison.usable_gold(gold) else "Math-Verify does not find it equal to itself (error)"


class Choice:
    """One of several options, by its letter or its text."""

    def decide(self, answer: str, gold: str, question: str) -> Status | None:
        """Everything is decided here."""
        return choice.judge(answer, gold, question)

    def judge(self, answer: str, gold: str, question: str) -> Status:
        """As `decide`."""
        return choice.judge(answer, gold, question)

    def check(self, gold: str, question: str) -> str | None:
        """It has to name one option."""
        return choice.fault(gold, question) or ""

    def fault(self, gold: str, question: str) -> str:
        """As `check`."""
        return choice.fault(gold, question) or ""


class Own:
    """A function of the user's own, by its dotted path. It runs in workers alone."""

    def __init__(self, path: str) -> None:
        self._path = path

    def decide(self, answer: str, gold: str, question: str) -> Status | None:
        """Nothing is decided here."""
        return None

    def judge(self, answer: str, gold: str, question: str) -> Status:
        """What the function returns. Raises TypeError where that is neither True nor False, NumPy's included."""
        found = load(self._path)(answer, gold, question)
        if not isinstance(found, bool) and (type(found).__module__, type(found).__name__) not in _NUMPY_BOOLS:
            raise TypeError(f"{self._path} returned {found!r:.60}, expected True or False")
        return "correct" if found else "wrong"

    def check(self, gold: str, question: str) -> str | None:
        """Nothing is checked here."""
        return None

    def fault(self, gold: str, question: str) -> str:
        """The function has to find it equal to itself."""
        try:
            status = self.judge(gold, gold, question)
        except UserError as error:
            return str(error)
        except Exception as error:
            return f"{self._path} fails on it: {type(error).__name__}: {error}"[:400]
        return "" if status == "correct" else f"{self._path} does not find it equal to itself"


SCORERS: dict[str, Scorer] = {MATH: Math(), CHOICE: Choice()}


def check_scorer_name(name: str) -> None:
    """Raises UserError where no scorer can have this name; loads nothing."""
    find(name)


def check_named_by_data(name: str, allowed: bool, flag: str) -> None:
    """Raises UserError where data name a function and the user has not allowed it, by `flag`: data must not run code.

    To be called before `check_scorer`, which imports the function.
    """
    find(name)
    if name not in SCORERS and not allowed:
        raise UserError(f"scorer {name}: the data name this function, which would be run; pass {flag} if you trust it")


def find(name: str) -> Scorer:
    """The scorer of this name. Raises UserError where it is neither a known one nor a dotted path; loads nothing."""
    if isinstance(name, str) and name in SCORERS:
        return SCORERS[name]
    if not isinstance(name, str) or not _DOTTED.fullmatch(name):
        raise UserError(f"scorer {name!r:.80}: expected {', '.join(SCORERS)}, or your own as package.module:function")
    return Own(name)


@functools.cache
def load(path: str) -> Callable[..., Any]:
    """The user's function. In a worker: nobody vouches for what an import does.

    Raises:
        UserError: it is one of Python's own, cannot be imported, or does not take (answer, gold, question).
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if module.partition(".")[0] in sys.stdlib_module_names:  # shutil.rmtree takes three arguments as well
        raise UserError(f"scorer {path}: {module} is a module of Python itself; expected a function of your own")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise UserError(f"scorer {path}: cannot be imported: {type(error).__name__}: {error}"[:600]) from None
    if not callable(function):
        raise UserError(f"scorer {path}: found {function!r:.60}, expected {_EXPECTED}")
    try:
        inspect.signature(function).bind("", "", "")
    except TypeError as error:
        raise UserError(f"scorer {path}: {error}; expected {_EXPECTED}") from None
    except ValueError:
        pass  # a built-in without a signature
    return function


def answer_key(answer: str, reference: str = "") -> str:
    """The same for answers that are the same: the same option of a choice, else the same number or the same text."""
    if not isinstance(reference, Reference) or reference.scorer != CHOICE:
        return key_of(answer)
    named = choice.letter(answer, reference.question)
    return f"={named}" if named else key_of(answer)


def states_option(text: str, reference: Reference) -> bool | None:
    """Whether a text says which option of a `choice` is right; None where the reference names none."""
    return choice.stated(text, reference, reference.question)


def plain_number(text: str) -> Number | None:
    """A text without words as a number."""
    return parse_number(canonical(text))
