"""The cleaning steps from a source's rows to training questions. Each step counts what it drops.

A step drops questions with a reason. The only changes to a question's text are the removal of white space at its ends,
of invisible characters and of the source's wrapping.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from data import golds
from data.sameness import compact, figure_mention, key, language
from openrlhf_mel.verifier import MATH, Reference, check_golds, shared_verifier

STEPS = {
    "unwrap": "take off the source's instruction before and after each question (exact texts)",
    "trim": "take off white space at both ends, and invisible characters (byte order marks, zero-width spaces)",
    "rewrite": "write answers in one way (025, 27.0, 336^\\circ: 25, 27, 336), without invisible characters",
    "exact_duplicates": "keep one of rows with the same question and answer",
    "unusable": "drop answers that are empty, rounded by floating point, or that their scorer does not find right",
    "conflicts": "drop questions that stand with different answers",
    "decontamination": "drop questions near a benchmark question",
    "language": "drop questions in languages other than --languages",
    "figures": "drop questions that refer to a figure or hold [asy]",
    "duplicates": "keep one of questions that are equal under the key",
}
_EXAMPLES = 20
_SHOWN = 300  # characters of a question or an answer in an example
_key = functools.lru_cache(maxsize=None)(key)


@dataclass(eq=False)
class SourceQuestion:
    """A question with its reference answer.

    Attributes:
        rows: numbers of the identical source rows.
        copies: row numbers of its duplicates.
    """

    text: str
    answer: str
    rows: array[int]
    copies: list[int] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, str, str]:
        """Sort key: of duplicates the first one is kept. Depends on content alone."""
        return len(self.text), self.text, self.answer


@dataclass
class Questions:
    """The remaining questions, and the dropped ones by reason.

    Attributes:
        dropped: reason -> {"count", "examples"}. Identical copies count once each, as `exact_duplicate`;
            whatever happens to the question later counts once.
        reasons: question -> (reason, details), in the order of dropping.
    """

    kept: list[SourceQuestion]
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    reasons: dict[SourceQuestion, tuple[str, str | None]] = field(default_factory=dict)

    def drop(self, reason: str, found: Mapping[SourceQuestion, str | None]) -> None:
        """Drop the questions of `found`; its values are details about each."""
        if not found:
            return
        self.count(reason, len(found))
        ordered = sorted(found, key=lambda question: question.order)
        self.reasons |= {question: (reason, found[question]) for question in ordered}
        self.kept = [question for question in self.kept if question not in found]
        self.dropped[reason]["examples"] += [example(question, found[question]) for question in ordered[:_EXAMPLES]]

    def count(self, reason: str, number: int) -> None:
        """Count dropped rows for `reason` without an example."""
        self.dropped.setdefault(reason, {"count": 0, "examples": []})["count"] += number


def example(question: SourceQuestion, detail: str | None, shown: int = _SHOWN) -> dict[str, Any]:
    """A question as reports show it."""
    shortened = {
        "rows": sorted(question.rows)[:5],
        "question": question.text[:shown],
        "answer": question.answer[:shown],
    }
    return shortened | ({"detail": detail} if detail else {})


def merged(questions: Iterable[SourceQuestion]) -> list[SourceQuestion]:
    """One question for all that have the same text and answer, with the rows of each."""
    found: dict[tuple[str, str], SourceQuestion] = {}
    for question in questions:
        first = found.setdefault((question.text, question.answer), question)
        if first is not question:
            first.rows.extend(question.rows)
    return list(found.values())


def conflicting(questions: Iterable[SourceQuestion], scorer: str = MATH) -> dict[SourceQuestion, str | None]:
    """Questions that occur with different answers. Questions are compared by the key, and as NFKC without white space.

    Two answers are different when `scorer` finds neither equal to the other. The whole group is dropped, because the
    right answer is unknown.
    """
    groups = _groups(questions, _key, compact)
    found: dict[SourceQuestion, str | None] = {}
    for group in groups:
        # The same text may be another answer where the options stand in another order.
        different = {question.answer if scorer == MATH else question.order: question for question in group}
        pairs = itertools.combinations([different[key] for key in sorted(different)], 2)
        if not all(_equal(*pair, scorer) for pair in pairs):
            answers = sorted({question.answer for question in group})
            found |= dict.fromkeys(group, f"answers {', '.join(answers)[:_SHOWN]}")
    return found


def damaged(questions: Iterable[SourceQuestion], scorer: str = MATH) -> dict[SourceQuestion, str | None]:
    """Questions whose answer looks rounded by a float64."""
    return {question: why for question in questions if (why := golds.float_damage(question.answer, scorer))}


def unverifiable(questions: list[SourceQuestion], scorer: str = MATH) -> dict[SourceQuestion, str | None]:
    """Questions whose answer the scorer cannot read, or does not find equal to itself."""
    # `math` judges by the answer alone.
    different = {question.answer if scorer == MATH else question.order: question for question in questions}
    keys = sorted(different)
    problems = {keys[row]: why for row, why in check_golds([_gold(different[key], scorer) for key in keys]).items()}
    named = {question: question.answer if scorer == MATH else question.order for question in questions}
    return {question: problems[key] for question, key in named.items() if key in problems}


def with_their_copies(
    found: Mapping[SourceQuestion, str], questions: Iterable[SourceQuestion]
) -> dict[SourceQuestion, str | None]:
    """`found`, and the questions that are equal to one of them under the key."""
    why = {_key(question.text): detail for question, detail in found.items()}
    return {question: why[_key(question.text)] for question in questions if _key(question.text) in why}


def in_other_languages(questions: Iterable[SourceQuestion], wanted: Iterable[str]) -> dict[SourceQuestion, str | None]:
    """Questions in none of the languages `wanted`."""
    return {question: found for question in questions if (found := language(question.text)) not in wanted}


def with_figures(questions: Iterable[SourceQuestion]) -> dict[SourceQuestion, str | None]:
    """Questions that refer to a figure."""
    return {question: found for question in questions if (found := figure_mention(question.text))}


def duplicates(questions: Iterable[SourceQuestion]) -> dict[SourceQuestion, str | None]:
    """Of each group that is equal under the key all but the shortest (of several the first in the order of Unicode).

    The one that is kept gets the row numbers of the others.
    """
    found: dict[SourceQuestion, str | None] = {}
    for group in _groups(questions, _key):
        first, *others = sorted(group, key=lambda question: question.order)
        for question in others:
            found[question] = f"equal to {first.text[:_SHOWN]}"
            first.copies.extend(question.rows)
    return found


def shuffled(questions: Iterable[SourceQuestion], purpose: str) -> list[SourceQuestion]:
    """The questions in an order that looks random and depends on their content alone."""
    return sorted(
        questions,
        key=lambda question: (hashlib.sha256(f"{purpose}\n{question.text}".encode()).digest(), question.order),
    )


def _groups(questions: Iterable[SourceQuestion], *same: Callable[[str], str]) -> list[list[SourceQuestion]]:
    """Groups of two or more questions, joined wherever a function of `same` has the same value for two of them."""
    by_text: dict[str, list[SourceQuestion]] = defaultdict(list)
    for question in questions:
        by_text[question.text].append(question)
    joined = DisjointSet(by_text)
    for form in same:
        first: dict[str, str] = {}
        for text in by_text:
            joined.merge(text, first.setdefault(form(text), text))
    groups = ([question for text in texts for question in by_text[text]] for texts in joined.subsets())
    return [group for group in groups if len(group) > 1]


def _gold(question: SourceQuestion, scorer: str) -> Reference:
    return Reference(question.answer, scorer, question.text)


def _equal(first: SourceQuestion, second: SourceQuestion, scorer: str) -> bool:
    boxed = [(f"\\boxed{{{one.answer}}}", _gold(other, scorer)) for one, other in ((first, second), (second, first))]
    return any(verdict.correct for verdict in shared_verifier().verify_many(boxed))
