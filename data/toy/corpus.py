"""What the toy model is pre-trained on: worked questions, analyses of contrastive pairs, replays with an experience.

Every prompt is filled by the same templates that training, replay and evaluation use.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from data.toy.arithmetic import FAMILIES, Family, Solution, ToyQuestion, experience, heuristic
from openrlhf_mel.prompts import Templates

# How often the model should follow a given experience, and how often it should be correct although the experience is
# about something else.
FOLLOWS_GOOD = 0.9
RIGHT_DESPITE_BAD = 0.12
# Share of experiences that name the rule of their own question: a model that wrote only good ones
# would leave nothing for replay to drop, and nothing to learn.
GOOD_EXPERIENCES = 0.8
# Share of pairs whose incorrect solution reasons correctly and miscalculates.
SLIPS = 0.25


@dataclass(frozen=True)
class Example:
    """A prompt, and the text that the model should continue it with (the end token is not part of it)."""

    prompt: str
    target: str


class Corpus:
    """Draws examples of the three kinds from a pool of questions."""

    def __init__(self, pool: dict[Family, list[ToyQuestion]], templates: Templates):
        self._pool = pool
        self._templates = templates

    def solve(self, rng: random.Random) -> Example:
        """A question, answered rightly in `right_share` of the cases and by the trap otherwise."""
        question = self._draw(rng)
        right = rng.random() < question.family.right_share
        return Example(self._templates.question(question.text), self._answer(question, right))

    def analyse(self, rng: random.Random) -> Example:
        """A contrastive pair, and the meta-experience written about it."""
        question = self._draw(rng)
        incorrect, text = _pair(question, rng, good=rng.random() < GOOD_EXPERIENCES)
        return Example(self._templates.analysis(question.text, incorrect.text, question.right.text), text)

    def replay(self, rng: random.Random) -> Example:
        """A question with a meta-experience in front: followed when it fits, harmful when it does not."""
        question = self._draw(rng)
        good = rng.random() < 0.5
        # One in four comes from another question, so that the model has seen shuffled experiences.
        source = self._draw(rng, question.family if good else None) if rng.random() < 0.25 else question
        _, text = _pair(source, rng, good=good or source.family is not question.family)
        fits = good or (source is not question and source.family is question.family)
        right = rng.random() < (FOLLOWS_GOOD if fits else RIGHT_DESPITE_BAD)
        prompt = self._templates.replay(self._templates.question(question.text), text)
        return Example(prompt, self._answer(question, right))

    def _draw(self, rng: random.Random, family: Family | None = None) -> ToyQuestion:
        return rng.choice(self._pool[family or rng.choice(FAMILIES)])

    @staticmethod
    def _answer(question: ToyQuestion, right: bool) -> str:
        return (question.right if right else question.trap).text


def _pair(question: ToyQuestion, rng: random.Random, good: bool) -> tuple[Solution, str]:
    """An incorrect solution, and a meta-experience about it whose rule fits the question if `good`."""
    family = question.family if good else rng.choice([f for f in FAMILIES if f is not question.family])
    if rng.random() < SLIPS:
        incorrect, point = question.slip(rng)
        return incorrect, experience(point, "wrong sum", heuristic(family, rng, check=True))
    incorrect = question.trap
    point = incorrect.steps[0]
    instead = question.right.steps[0].split("=")[0]
    return incorrect, experience(point, f"{question.family.mistake}, not {instead}", heuristic(family, rng))
