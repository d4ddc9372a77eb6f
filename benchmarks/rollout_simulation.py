"""A rollout with meta-experiences on several engines, simulated: what construction costs in generation time. Pure.

    python -m benchmarks.rollout_simulation [--curve 1:0.02,64:0.03,...] [--steps 8] [--seeds 3]

An engine (`engine_model.py`) decodes all of its requests together: one token each in the seconds that its curve gives
for a batch of that size. It takes at most `slots` requests; of the others, constructions go first, then all wait in
their order. The prefill of a prompt stops its decoding. As in a run, a group goes to the engine with the fewest requests, and a construction to the one with
the fewest constructions. When a group of responses is finished and mixed, its M is written, then replayed. The ways of
construction are:

    none       no construction: GRPO's rollout
    barrier    all of them after the rollout's last response
    streaming  each as soon as its group is finished; the rollout ends when all are
    deferred   as streaming, but those unfinished at the last response are broken off, and go first in the next rollout:
               an M in the making is written anew, a finished one only replayed; a pair is carried `max_carries` times,
               then the rollout waits for it; what will probably be broken off is not begun (`RolloutPace`)

Prints generation time against `none`, and constructions that were finished and carried. Takes half a minute.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from benchmarks.engine_model import Done, EngineModel, Engines
from openrlhf_mel.method.rollout_pace import RolloutPace

Construction = Literal["none", "barrier", "streaming", "deferred"]
KINDS: tuple[Construction, ...] = ("none", "barrier", "streaming", "deferred")


@dataclass(frozen=True)
class Lengths:
    """Log-normal numbers of tokens, cut at `most`."""

    median: float
    sigma: float
    most: int

    def draw(self, rng: random.Random) -> int:
        """One length, of 16 tokens at least."""
        return min(self.most, max(16, int(self.median * rng.lognormvariate(0, self.sigma))))


@dataclass
class Pair:
    """A pair under construction. `written`: its M is finished, so that only the replay is left."""

    experience: int
    replay: int
    context: int
    carries: int = 0
    written: bool = False


class Work(Protocol):
    """The requests of rollouts. `prompt`: a question's tokens; an M's replay prompt has the M besides."""

    prompt: int

    def groups(self, seed: int, number: int) -> list[tuple[list[int], Pair | None]]:
        """Of a seed's rollout `number`, each group's lengths, and its pair where it is mixed; the same in every call."""


@dataclass(frozen=True)
class Workload:
    """Requests drawn at random: `mixed` is the share of groups that construct an M."""

    questions: int = 128
    group: int = 8
    mixed: float = 0.5
    responses: Lengths = Lengths(665, 0.9, 8192)
    experiences: Lengths = Lengths(350, 0.5, 2048)
    prompt: int = 150  # tokens; an M's prompt has two responses besides

    def __post_init__(self) -> None:
        if not 0 <= self.mixed <= 1:
            raise ValueError(f"mixed: found {self.mixed}, expected a share from 0 to 1")

    def groups(self, seed: int, number: int) -> list[tuple[list[int], Pair | None]]:
        """See `Work`."""
        rng, found = random.Random(f"{seed}/{number}"), []
        for _ in range(self.questions):
            lengths = [self.responses.draw(rng) for _ in range(self.group)]
            mixed = rng.random() < self.mixed
            pair = Pair(
                self.experiences.draw(rng),
                self.responses.draw(rng),
                self.prompt + sum(rng.sample(lengths, min(2, len(lengths)))),
            )
            found.append((lengths, pair if mixed else None))
        return found


@dataclass(frozen=True)
class Rollout:
    """A simulated rollout: seconds, tokens generated, and pairs by what became of them.

    Attributes:
        rewritten: tokens of Ms and replays that were lost by breaking off.
        waited_s: seconds after the last response.
        idle: 1 - tokens / (engines x seconds x the best rate of an engine).
    """

    seconds: float
    tokens: int
    finished: int
    carried: int
    rewritten: int
    waited_s: float
    idle: float


@dataclass
class _Step:
    """One rollout under way."""

    kind: Construction
    engines: Engines
    groups: list[tuple[list[int], Pair | None]]
    prompt: int
    max_carries: int
    pace: RolloutPace
    left: int = 0  # responses that have not arrived
    missing: int = 0  # groups that are not finished
    tokens: int = 0
    finished: int = 0
    open: dict[int, Pair] = field(default_factory=dict)
    later: list[Pair] = field(default_factory=list)  # of the barrier
    held: list[Pair] = field(default_factory=list)  # not begun
    writing_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._constructing = [0] * len(self.engines)

    def construct(self, now: float, pair: Pair) -> None:
        self.open[id(pair)] = pair

        def replayed(now: float) -> None:
            del self.open[id(pair)]
            self.finished += 1

        begun = now

        def replay(now: float) -> None:
            self._submit(now, self.prompt + pair.experience, pair.replay, replayed)

        def written(now: float) -> None:
            pair.written = True
            self.writing_s.append(now - begun)
            replay(now)

        if pair.written:
            replay(now)
        else:
            self._submit(now, pair.context, pair.experience, written)

    def _submit(self, now: float, prompt: int, tokens: int, done: Done) -> None:
        index = self._constructing.index(min(self._constructing))
        self._constructing[index] += 1
        self.tokens += tokens

        def ended(now: float) -> None:
            self._constructing[index] -= 1
            done(now)

        self.engines.add(index, now, prompt, tokens, ended, ahead=True)

    def respond(self, now: float) -> None:
        """Send all responses' requests, group by group."""
        for lengths, pair in self.groups:
            self.left += len(lengths)
            self.missing += 1
            self.tokens += sum(lengths)
            arrived, index = self._arrival(len(lengths), pair), self.engines.fewest()
            for length in lengths:
                self.engines.add(index, now, self.prompt, length, arrived)

    def _arrival(self, size: int, pair: Pair | None) -> Done:
        missing = size

        def arrived(now: float) -> None:
            nonlocal missing
            missing, self.left = missing - 1, self.left - 1
            if missing:
                return
            self.missing -= 1
            self.pace.finish_group(now)
            if not pair or self.kind == "none":
                return
            if self.kind == "barrier":
                self.later.append(pair)
            elif self.kind == "deferred" and self.max_carries and not self.pace.leaves_time(self.missing):
                self.held.append(pair)
            else:
                self.construct(now, pair)

        return arrived


def rollouts(
    kind: Construction, model: EngineModel, work: Work, engines: int, steps: int, seed: int, max_carries: int = 1
) -> Iterator[Rollout]:
    """Simulate `steps` rollouts in a row. Lengths depend on the seed alone, so that ways of construction are paired."""
    carried: list[Pair] = []
    pace = RolloutPace()
    for number in range(steps):
        step = _Step(kind, Engines(model, engines), work.groups(seed, number), work.prompt, max_carries, pace)
        found, carried = _simulate(step, carried, model)
        yield found


def _simulate(step: _Step, carried: list[Pair], model: EngineModel) -> tuple[Rollout, list[Pair]]:
    for pair in carried:
        step.construct(0.0, pair)
    step.respond(0.0)
    now, responded, lost = 0.0, 0.0, 0
    while True:
        if step.engines.next_end() == math.inf:
            if not step.later:
                break
            waiting, step.later = step.later, []
            for pair in waiting:
                step.construct(now, pair)
            continue
        now, done = step.engines.end_next()
        waited = step.left == 0
        done(now)
        responded = responded if waited else now
        if step.kind == "deferred" and not step.left and all(p.carries < step.max_carries for p in step.open.values()):
            lost = step.engines.break_off(now)
            break
    step.pace.end_rollout(step.writing_s)
    left = list(step.open.values())
    unborn = sum(pair.replay if pair.written else pair.experience for pair in left)
    left += step.held
    for pair in left:
        pair.carries += 1
    made = step.tokens - unborn + lost
    idle = 1 - made / (len(step.engines) * now * model.best_rate()) if now else 0.0
    return Rollout(now, made, step.finished, len(left), lost, now - responded, idle), left


def against_none(
    model: EngineModel, work: Work, engines: int, steps: int, seeds: Sequence[int], warm_up: int = 2
) -> dict[Construction, tuple[float, float, float, float]]:
    """(generation time against `none`, its standard deviation over seeds, finished and carried pairs a step)."""
    found: dict[Construction, tuple[float, float, float, float]] = {}
    base: dict[int, float] = {}
    for kind in KINDS:
        ratios, finished, carried = [], [], []
        for seed in seeds:
            each = list(rollouts(kind, model, work, engines, steps, seed))[warm_up:]
            seconds = statistics.fmean(rollout.seconds for rollout in each)
            ratios.append(seconds / base.setdefault(seed, seconds))
            finished.append(statistics.fmean(rollout.finished for rollout in each))
            carried.append(statistics.fmean(rollout.carried for rollout in each))
        spread = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
        found[kind] = statistics.fmean(ratios), spread, statistics.fmean(finished), statistics.fmean(carried)
    return found


def main() -> None:
    """Print a table over medians, engines, slots and prefill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curve", default="1:1,96:2", help="BATCH:SECONDS,... of a decoding step, as measured")
    parser.add_argument("--steps", type=int, default=8, help="rollouts in a row, of which two are not counted")
    parser.add_argument("--seeds", type=int, default=3)
    own = parser.parse_args()
    pairs = (point.split(":") for point in own.curve.split(","))
    curve = tuple((int(batch), float(seconds)) for batch, seconds in pairs)
    print(
        "| median | most | engines | slots | prefill (tokens in a step of one) | barrier | streaming | deferred | carried |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for median, most, engines, slots, prefill in CASES:
        model = EngineModel(curve, slots, prefill / curve[0][1])
        # one rollout for every eight engines: a machine's share of the questions is the same
        work = Workload(questions=16 * engines, responses=Lengths(median, 0.9, most))
        found = against_none(model, work, engines, own.steps, range(own.seeds))
        ratios = [f"{found[kind][0]:.2f} ± {found[kind][1]:.2f}" for kind in KINDS[1:]]
        carried = f"{found['deferred'][3]:.0f} of {found['streaming'][2]:.0f}"
        print(f"| {median} | {most} | {engines} | {slots} | {prefill} | {' | '.join(ratios)} | {carried} |", flush=True)


# (median length, longest, engines, slots, prompt tokens in the time of one decoding step of one request)
CASES = (
    (665, 8_192, 8, 128, 400),
    (1_480, 8_192, 8, 128, 400),
    (1_480, 32_768, 8, 128, 400),
    (6_000, 32_768, 8, 128, 400),
    (665, 8_192, 1, 128, 400),
    (665, 8_192, 64, 128, 400),
    (665, 8_192, 8, 64, 400),
    (665, 8_192, 8, 256, 400),
    (665, 8_192, 8, 128, 100),
)

if __name__ == "__main__":
    main()
