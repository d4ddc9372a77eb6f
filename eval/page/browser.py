"""The data of the page's question browser: JSON that cannot break out of its <script>, of limited size."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from eval.messages import Question
from eval.store import Sample

_FIELDS = ("greedy", "sample", "status", "extracted", "lenient_status", "lenient_extracted", "finish_reason", "tokens")
_TEXTS = len(_FIELDS)  # the place of a row's response, and behind it of the thinking that a server gave apart, if any
_SHORTEST, _EXTRACTED = (
    200,
    300,
)  # characters: the least of a shortened response, and the most of an extracted answer
_SURROGATE = re.compile("[\ud800-\udfff]")

Text = str | list[Any]  # whole, or [beginning, number of omitted characters, end]


class Browser:
    """Collects questions with their samples, and shortens responses as far as the page's maximal size requires.

    First responses are shortened step by step, down to 200 characters; then the last questions of every benchmark are
    left out. The size in memory is below the maximum at any time.

    Attributes:
        limit: kept characters of a response: half of them its beginning, half its end, with the answer.
        first: number of kept questions of each benchmark; None: all.
        shortened, responses: number of shortened responses, and of all.
        size: approximate bytes of `json()`.
    """

    def __init__(self, labels: Sequence[str], max_characters: int, max_bytes: int):
        self.limit, self.first = max_characters, None
        self.size = self.responses = self.shortened = 0
        self._labels, self._max_bytes = list(labels), max_bytes
        self._questions: set[Question] = set()
        self._items: list[dict[str, Any]] = []

    def add(self, model: int, number: int, question: Question, samples: Sequence[Sample]) -> None:
        """Add question `number`, counted from 0 in its benchmark, with the samples of model number `model`."""
        if self.first is not None and number >= self.first:
            return
        rows = [
            [
                *(getattr(sample, name) for name in _FIELDS),
                *(shorten(text, self.limit) for text in (sample.response, sample.thought) if text is not None),
            ]
            for sample in samples
        ]
        for row in rows:
            for name in ("extracted", "lenient_extracted"):
                place = _FIELDS.index(name)
                row[place] = None if row[place] is None else shorten(str(row[place]), _EXTRACTED)
        item = {"model": model, "question": question, "number": number, "samples": rows}
        self._items.append(item)
        self._count(item)
        while self.size > self._max_bytes and self._tighten():
            pass

    def json(self) -> str:
        """For a <script type="application/json">: no `<` in it, so nothing that ends or opens an element."""
        reasoned = any(len(row) > _TEXTS + 1 for item in self._items for row in item["samples"])
        numbers = {question: i for i, question in enumerate(dict.fromkeys(item["question"] for item in self._items))}
        return dump(
            {
                "labels": self._labels,
                "benchmarks": list(dict.fromkeys(question.benchmark for question in numbers)),
                "fields": [*_FIELDS, "response", *(["reasoning"] if reasoned else [])],
                "questions": [_question_row(question, self.limit) for question in numbers],
                "items": [
                    [item["model"], numbers[item["question"]], item["samples"]] for item in self._ordered(numbers)
                ],
            }
        )

    def _ordered(self, numbers: dict[Question, int]) -> list[dict[str, Any]]:
        """The items by question, then by model."""
        return sorted(self._items, key=lambda item: (numbers[item["question"]], item["model"]))

    def _count(self, item: dict[str, Any]) -> None:
        if item["question"] not in self._questions:
            self._questions.add(item["question"])
            self.size += _bytes(_question_row(item["question"], self.limit))
        self.size += _bytes(item["samples"]) + 16
        self.responses += len(item["samples"])
        self.shortened += sum(isinstance(row[_TEXTS], list) for row in item["samples"])

    def _tighten(self) -> bool:
        """Make the page smaller by one step; False when nothing is left to remove."""
        if self.limit > _SHORTEST:
            self.limit = max(_SHORTEST, self.limit * 7 // 8)
            for item in self._items:
                for row in item["samples"]:
                    row[_TEXTS:] = [shorten(text, self.limit) for text in row[_TEXTS:]]
        else:
            last = max(item["number"] for item in self._items)
            self.first = min(last, (last + 1) * 7 // 8)
            self._items = [item for item in self._items if item["number"] < self.first]
        self._questions, self.size, self.responses, self.shortened = set(), 0, 0, 0
        for item in self._items:
            self._count(item)
        return bool(self._items)


def shorten(text: Text, limit: int) -> Text:
    """Of a text longer than `limit`: its first and last `limit` / 2 characters, and the number between them."""
    head, left_out, tail = text if isinstance(text, list) else (text, 0, "")
    if len(head) + len(tail) <= limit:
        return text
    whole = len(head) + left_out + len(tail)
    half = limit // 2
    end = (tail or head)[-half:]
    return [head[:half], whole - half - len(end), end]


def dump(value: Any) -> str:
    """JSON for the inside of a <script>. Lone halves of surrogate pairs, which UTF-8 lacks, are escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _question_row(question: Question, limit: int) -> list[Any]:
    texts = (shorten(question.problem, max(limit, 2000)), shorten(question.answer, _EXTRACTED))
    return [question.benchmark, question.id, *texts, question.unit, question.tolerance]


def _bytes(value: Any) -> int:
    return len(dump(value).encode())
