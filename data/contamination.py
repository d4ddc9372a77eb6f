"""Which training questions are near a benchmark question.

Similarity is `difflib.SequenceMatcher.ratio` over the tokens of the lower-cased texts (words, numbers, operators). The
ratio depends on the order of its arguments and on a heuristic for long texts: the largest of the four values counts.
Its matching blocks form a common subsequence, so it is never above the similarity of the longest common subsequence
(Indel), which rapidfuzz computes for all pairs, some millions per second. So no pair is missed. Where difflib would
take seconds (long texts of few different tokens), that upper bound is used instead.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

_TOKEN = re.compile(r"\w+|[+\-*/=<>^]")
_CHUNK = 500  # texts at a time: the matrix of similarities is (queries, _CHUNK) of float32
_ROUNDING = 1e-6  # of float32
_COSTLY = 50_000  # pairs of equal tokens; natural questions have some hundreds
_ELSEWHERE = "\x00"  # a token that no query contains: it matches nothing


@dataclass(frozen=True)
class Pair:
    """A query and a text that are near, by their positions."""

    query: int
    text: int
    similarity: float


def tokens(text: str) -> list[str]:
    """The compared tokens: words, numbers, and operators."""
    return _TOKEN.findall(text.lower())


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """The similarity of two lists of tokens, from 0 to 1; 0 for texts without a token."""
    counts = Counter(second)
    if sum(count * counts[token] for token, count in Counter(first).items()) > _COSTLY:
        return Indel.normalized_similarity(first, second)
    if not (first and second):
        return 0.0
    return max(
        SequenceMatcher(None, a, b, autojunk).ratio()
        for a, b in ((first, second), (second, first))
        for autojunk in (True, False)
    )


def near_pairs(
    queries: Sequence[str], texts: Sequence[str], least: float, progress: Callable[[int], object] = lambda _: None
) -> list[Pair]:
    """Every pair with a similarity of at least `least` (above 0), in the order of the texts, then of the queries.

    `progress` gets the number of texts compared since the last call.
    """
    query_tokens, text_tokens = [tokens(query) for query in queries], [tokens(text) for text in texts]
    # One character per token: rapidfuzz is fastest on strings.
    alphabet: dict[str, str] = {}
    for token in (token for query in query_tokens for token in query):
        alphabet.setdefault(token, _character(len(alphabet)))
    # Near texts are of similar length: 2 * shorter / (shorter + longer) is at least the similarity.
    by_length = sorted(range(len(queries)), key=lambda i: len(query_tokens[i]))
    lengths = [len(query_tokens[i]) for i in by_length]
    order = sorted(range(len(texts)), key=lambda j: len(text_tokens[j]))
    ratio = least / (2 - least)
    pairs = []
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        shortest, longest = len(text_tokens[chunk[0]]), len(text_tokens[chunk[-1]])
        some = by_length[bisect_left(lengths, int(shortest * ratio)) : bisect_right(lengths, int(longest / ratio) + 1)]
        scores = process.cdist(
            ["".join(alphabet[token] for token in query_tokens[i]) for i in some],
            ["".join(alphabet.get(token, _ELSEWHERE) for token in text_tokens[j]) for j in chunk],
            scorer=Indel.normalized_similarity,
            score_cutoff=max(0.0, least - _ROUNDING),
            dtype=np.float32,
            workers=len(os.sched_getaffinity(0)),
        )
        for row, column in np.argwhere(scores > 0).tolist():
            i, j = some[row], chunk[column]
            measured = similarity(query_tokens[i], text_tokens[j])
            if measured >= least:
                pairs.append(Pair(i, j, measured))
        progress(len(chunk))
    return sorted(pairs, key=lambda pair: (pair.text, pair.query))


def _character(number: int) -> str:
    """One character for each number from 0, leaving out those that mark half a character."""
    number += 1
    return chr(number if number < 0xD800 else number + 0x800)
