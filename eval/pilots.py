"""The sampled responses of one or two pilots: evaluations from whose variances a larger one is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval import seed_folders
from eval.paired import common_questions, load
from openrlhf_mel.errors import UserError


@dataclass(frozen=True)
class Pilots:
    """The samples by benchmark.

    Attributes:
        correct: of each pilot (questions, n), 1 where a sample is right, with the same questions in the same order.
        n_of_seed: the fewest samples a question that a seed of a pilot has.
        warnings: what was left out.
    """

    correct: dict[str, list[np.ndarray]]
    n_of_seed: int
    warnings: list[str]


def read_pilots(folders: Sequence[Path], benchmark: str | None) -> Pilots:
    """Read the pilots, or one benchmark of theirs. Questions that lack samples are left out.

    Raises:
        UserError: a folder holds no evaluation, or several; no such benchmark; one has fewer than 2 questions with all
            samples, or fewer than 2 samples a question.
    """
    loaded, warnings = list(map(load, folders)), list[str]()
    ids = common_questions(loaded[0], loaded[-1], warnings)
    if benchmark is not None:
        if benchmark not in ids:
            raise UserError(f"--benchmark {benchmark}: not in the pilot; expected one of {', '.join(ids)}")
        ids = {benchmark: ids[benchmark]}
    correct = {}
    for name, own in ids.items():
        whole = [i for i in own if all(len(e.questions[name][i].sampled) == e.n[name] for e in loaded)]
        n = min(e.n[name] for e in loaded)
        if n < 2 or len(whole) < 2:
            raise UserError(
                f"{' and '.join(map(str, folders))}: {name} has {len(whole)} questions with {n} sampled responses each, "
                "expected at least 2 of both; draw more (eval.run --n), or choose another with --benchmark"
            )
        if len(whole) < len(own):
            warnings.append(f"{name}: left out {len(own) - len(whole)} questions that lack samples")
        correct[name] = [np.array([list(e.questions[name][i].sampled.values()) for i in whole], float) for e in loaded]
    seeds = [len(seed_folders.existing(folder)) or 1 for folder in folders]
    least = min(e.n[name] // count for e, count in zip(loaded, seeds, strict=True) for name in correct)
    return Pilots(correct, max(1, least), warnings)
