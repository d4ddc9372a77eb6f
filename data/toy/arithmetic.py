"""Two-step arithmetic questions with a known trap each: questions, right and trapped reasoning, meta-experiences.

Pure. Operands are drawn so that neither the right nor the trapped reasoning gives a negative number.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Operands = tuple[int, ...]
Sum = tuple[int, str, int]
# First sum, and the second one as a function of the first one's result.
Calculation = tuple[Sum, Callable[[int], Sum]]

_APPLY: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
}


@dataclass(frozen=True)
class Solution:
    """A worked response: its steps as `x-y=z`, and the number in the box."""

    steps: tuple[str, str]
    result: int

    @property
    def text(self) -> str:
        """The response as the policy writes it: a step a line, then the box."""
        return "\n".join(self.steps) + f"\n\\boxed{{{self.result}}}"


@dataclass(frozen=True)
class Family:
    """One kind of question, with its trap.

    Attributes:
        operands: every choice of operands of the family.
        expression: the text of a choice.
        right, trap: the correct plan, and the tempting wrong one.
        mistake: the trap's error, for the critique.
        conditions, rules: wordings of the heuristic `if <condition>, <rule>`.
        right_share: how often the built model should reason correctly without an M.
    """

    name: str
    operands: tuple[Operands, ...]
    expression: Callable[..., str]
    right: Callable[..., Calculation]
    trap: Callable[..., Calculation]
    mistake: str
    conditions: tuple[str, ...]
    rules: tuple[str, ...]
    right_share: float


@dataclass(frozen=True)
class ToyQuestion:
    """A question of a family: `operands` are one of `family.operands`."""

    family: Family
    operands: Operands

    @property
    def text(self) -> str:
        """The bare question, as in the data files."""
        return f"Compute {self.family.expression(*self.operands)}."

    @property
    def right(self) -> Solution:
        """The valid reasoning."""
        return _carry_out(self.family.right(*self.operands))

    @property
    def trap(self) -> Solution:
        """The reasoning that falls into the family's trap."""
        return _carry_out(self.family.trap(*self.operands))

    def slip(self, rng: random.Random) -> tuple[Solution, str]:
        """The correct plan with one miscalculated step, and that step as written."""
        place = rng.randrange(2)
        true = self.right.steps[place]
        value = int(true.split("=")[1])
        off = rng.choice([d for d in (-10, -2, -1, 1, 2, 10) if value + d >= 0])
        shift = (off, 0) if place == 0 else (0, off)
        solution = _carry_out(self.family.right(*self.operands), shift)
        return solution, solution.steps[place]


def _carry_out(plan: Calculation, shift: tuple[int, int] = (0, 0)) -> Solution:
    first, second = plan
    steps = []
    x, sign, y = first
    value = _APPLY[sign](x, y) + shift[0]
    steps.append(f"{x}{sign}{y}={value}")
    x, sign, y = second(value)
    value = _APPLY[sign](x, y) + shift[1]
    steps.append(f"{x}{sign}{y}={value}")
    return Solution((steps[0], steps[1]), value)


FAMILIES: tuple[Family, ...] = (
    Family(
        name="chain",
        operands=tuple((a, b, c) for a in range(20, 60) for b in range(2, 10) for c in range(1, b)),
        expression=lambda a, b, c: f"{a}-{b}-{c}",
        right=lambda a, b, c: ((a, "-", b), lambda r: (r, "-", c)),
        trap=lambda a, b, c: ((b, "-", c), lambda r: (a, "-", r)),
        mistake="went right to left",
        conditions=("minus after minus", "a chain of minus"),
        rules=("go left to right", "start on the left"),
        right_share=0.6,
    ),
    Family(
        name="times",
        operands=tuple((a, b, c) for a in range(2, 20) for b in range(2, 10) for c in range(2, 10)),
        expression=lambda a, b, c: f"{a}+{b}*{c}",
        right=lambda a, b, c: ((b, "*", c), lambda r: (a, "+", r)),
        trap=lambda a, b, c: ((a, "+", b), lambda r: (r, "*", c)),
        mistake="did plus first",
        conditions=("plus and times", "times after plus"),
        rules=("do times first", "start on times"),
        right_share=0.45,
    ),
    Family(
        name="bracket",
        operands=tuple((a, b, c) for a in range(20, 60) for b in range(2, 10) for c in range(2, 10)),
        expression=lambda a, b, c: f"{a}-({b}+{c})",
        right=lambda a, b, c: ((b, "+", c), lambda r: (a, "-", r)),
        trap=lambda a, b, c: ((a, "-", b), lambda r: (r, "+", c)),
        mistake="left the bracket out",
        conditions=("minus a bracket", "a bracket after minus"),
        rules=("do the bracket first", "start in the bracket"),
        right_share=0.4,
    ),
    Family(
        name="power",
        operands=tuple((a, b) for a in range(2, 100) for b in range(3, 10)),
        expression=lambda a, b: f"{a}+{b}^2",
        right=lambda a, b: ((b, "*", b), lambda r: (a, "+", r)),
        trap=lambda a, b: ((b, "*", 2), lambda r: (a, "+", r)),
        mistake="took it times two",
        conditions=("a square", "a power of two"),
        rules=("take it times itself", "use times itself"),
        right_share=0.35,
    ),
)


def heuristic(family: Family, rng: random.Random, check: bool = False) -> str:
    """The abstract rule of a family in one of its wordings; `check` adds the advice against slips."""
    tail = " and check each step" if check else ""
    return f"if {rng.choice(family.conditions)}, {rng.choice(family.rules)}{tail}"


def experience(point: str, critique: str, rule: str) -> str:
    """A meta-experience M = (s*, C, H) under the headings of templates/sections.yaml."""
    return f"point: {point}\ncritique: {critique}\nheuristic: {rule}"
