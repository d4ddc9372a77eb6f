"""A rollout with meta-experiences on several engines, simulated: what construction costs in generation time. Pure.

    python -m benchmarks.rollout_simulation [--curve 1:0.02,64:0.03,...] [--steps 12] [--seeds 5]

An engine decodes all of its requests together: one token each in the seconds that its curve gives for a batch of that
size. It takes at most `slots` requests, the others wait in their order. The prefill of a prompt stops its decoding. A
request goes to the engine with the fewest. When a group of responses is finished and mixed, its M is written, then
replayed. The ways of construction are:

    none       no construction: GRPO's rollout
    barrier    all of them after the rollout's last response
    streaming  each as soon as its group is finished; the rollout ends when all are
    deferred   as streaming, but those unfinished at the last response are broken off, and go first in the next rollout:
               an M in the making is written anew, a finished one only replayed; a pair is carried `max_carries` times,
               then the rollout waits for it

Prints generation time against `none`, and constructions that were finished, carried and rewritten.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Construction = Literal["none", "barrier", "streaming", "deferred"]
KINDS: tuple[Construction, ...] = ("none", "barrier", "streaming", "deferred")


@dataclass(frozen=True)
class EngineModel:
    """What an engine does in a second.

    Attributes:
        curve: (requests in the batch, seconds of a decoding step), ascending; linear in between, and beyond the last as
            between the last two.
        slots: requests that it decodes at most together.
        prefill: prompt tokens a second.
    """

    curve: tuple[tuple[int, float], ...]
    slots: int = 128
    prefill: float = math.inf

    def step_s(self, batch: int) -> float:
        """Seconds of a decoding step."""
        if len(self.curve) == 1:
            return self.curve[0][1]
        at = min(max(bisect.bisect_left(self.curve, (batch, -math.inf)), 1), len(self.curve) - 1)
        (low, fast), (high, slow) = self.curve[at - 1], self.curve[at]
        return fast + (slow - fast) * (max(batch, low) - low) / (high - low)

    def best_rate(self) -> float:
        """Most tokens a second: at a corner of the curve, or with every slot in use."""
        batches = {min(batch, self.slots) for batch, _ in self.curve} | {self.slots}
        return max(batch / self.step_s(batch) for batch in batches)


@dataclass(frozen=True)
class Lengths:
    """Log-normal numbers of tokens, cut at `most`."""

    median: float
    sigma: float
    most: int

    def draw(self, rng: random.Random) -> int:
        """One length, of 16 tokens at least."""
        return min(self.most, max(16, int(self.median * rng.lognormvariate(0, self.sigma))))


@dataclass(frozen=True)
class Workload:
    """A rollout's requests: `mixed` is the share of groups that construct an M."""

    questions: int = 128
    group: int = 8
    mixed: float = 0.5
    responses: Lengths = Lengths(665, 0.9, 8192)
    experiences: Lengths = Lengths(350, 0.5, 2048)
    prompt: int = 150  # tokens; an M's prompt has two responses besides, a replay's prompt the M

    def __post_init__(self) -> None:
        if not 0 <= self.mixed <= 1:
            raise ValueError(f"mixed: found {self.mixed}, expected a share from 0 to 1")


@dataclass
class Pair:
    """A pair under construction. `written`: its M is finished, so that only the replay is left."""

    experience: int
    replay: int
    context: int
    carries: int = 0
    written: bool = False


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


class Engine:
    """Decodes its requests together, in virtual time: the decoding steps that each of them has had."""

    def __init__(self, model: EngineModel) -> None:
        self._model = model
        self._now = self._steps = self._prefill_s = 0.0
        self._running: list[tuple[float, int, int, Callable[[float], None]]] = []
        self._waiting: deque[tuple[int, int, Callable[[float], None]]] = deque()
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def add(self, now: float, prompt: int, tokens: int, done: Callable[[float], None]) -> None:
        """A request of `tokens` new tokens; `done` is called with its end."""
        self._advance(now)
        self._waiting.append((prompt, tokens, done))
        self._fill()

    def next_end(self) -> float:
        """When its next request ends, if nothing is added."""
        if not self._running:
            return math.inf
        left = self._running[0][0] - self._steps
        return self._now + self._prefill_s + left * self._model.step_s(len(self._running))

    def end_next(self) -> tuple[float, Callable[[float], None]]:
        """End the next request: when, and what to call."""
        now = self.next_end()
        self._advance(now)
        *_, done = heapq.heappop(self._running)
        self._fill()
        return now, done

    def break_off(self, now: float) -> int:
        """Drop every request. Returns the tokens that they had."""
        self._advance(now)
        lost = sum(tokens - math.ceil(end - self._steps) for end, _, tokens, _ in self._running)
        self._running, self._waiting, self._prefill_s = [], deque(), 0.0
        return lost

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._model.slots:
            prompt, tokens, done = self._waiting.popleft()
            self._prefill_s += prompt / self._model.prefill
            heapq.heappush(self._running, (self._steps + tokens, next(self._order), tokens, done))

    def _advance(self, now: float) -> None:
        passed, self._now = now - self._now, now
        prefilled = min(passed, self._prefill_s)
        self._prefill_s -= prefilled
        if self._running:
            self._steps += (passed - prefilled) / self._model.step_s(len(self._running))


@dataclass
class _Step:
    """One rollout under way."""

    kind: Construction
    engines: list[Engine]
    work: Workload
    rng: random.Random
    max_carries: int
    left: int  # responses that have not arrived
    tokens: int = 0
    finished: int = 0
    open: dict[int, Pair] = field(default_factory=dict)
    later: list[Pair] = field(default_factory=list)  # of the barrier

    def submit(self, now: float, prompt: int, tokens: int, done: Callable[[float], None]) -> None:
        self.tokens += tokens
        min(self.engines, key=len).add(now, prompt, tokens, done)

    def construct(self, now: float, pair: Pair) -> None:
        self.open[id(pair)] = pair

        def replayed(now: float) -> None:
            del self.open[id(pair)]
            self.finished += 1

        def written(now: float) -> None:
            pair.written = True
            self.submit(now, self.work.prompt + pair.experience, pair.replay, replayed)

        if pair.written:
            written(now)
        else:
            self.submit(now, pair.context, pair.experience, written)

    def respond(self, now: float) -> None:
        """Send all responses' requests, group by group."""
        for _ in range(self.work.questions):
            lengths = [self.work.responses.draw(self.rng) for _ in range(self.work.group)]
            # drawn in the same order whatever the way of construction
            mixed = self.rng.random() < self.work.mixed
            pair = Pair(
                self.work.experiences.draw(self.rng),
                self.work.responses.draw(self.rng),
                self.work.prompt + sum(self.rng.sample(lengths, min(2, len(lengths)))),
            )
            arrived = self._arrival(len(lengths), pair if mixed else None)
            for length in lengths:
                self.submit(now, self.work.prompt, length, arrived)

    def _arrival(self, size: int, pair: Pair | None) -> Callable[[float], None]:
        missing = size

        def arrived(now: float) -> None:
            nonlocal missing
            missing, self.left = missing - 1, self.left - 1
            if missing or not pair or self.kind == "none":
                return
            if self.kind == "barrier":
                self.later.append(pair)
            else:
                self.construct(now, pair)

        return arrived


def rollouts(
    kind: Construction, model: EngineModel, work: Workload, engines: int, steps: int, seed: int, max_carries: int = 1
) -> Iterator[Rollout]:
    """Simulate `steps` rollouts in a row. Lengths depend on the seed alone, so that ways of construction are paired."""
    carried: list[Pair] = []
    for number in range(steps):
        # a rollout's own generator: how many draws an earlier one has made does not matter
        rng = random.Random(f"{seed}/{number}")
        step = _Step(kind, [Engine(model) for _ in range(engines)], work, rng, max_carries, work.questions * work.group)
        found, carried = _simulate(step, carried, model)
        yield found


def _simulate(step: _Step, carried: list[Pair], model: EngineModel) -> tuple[Rollout, list[Pair]]:
    for pair in carried:
        step.construct(0.0, pair)
    step.respond(0.0)
    now, responded, lost = 0.0, 0.0, 0
    while True:
        engine = min(step.engines, key=Engine.next_end)
        if engine.next_end() == math.inf:
            if not step.later:
                break
            waiting, step.later = step.later, []
            for pair in waiting:
                step.construct(now, pair)
            continue
        now, done = engine.end_next()
        waited = step.left == 0
        done(now)
        responded = responded if waited else now
        if step.kind == "deferred" and not step.left and all(p.carries < step.max_carries for p in step.open.values()):
            lost = sum(each.break_off(now) for each in step.engines)
            break
    left = list(step.open.values())
    unborn = sum((0 if pair.written else pair.experience) + (pair.replay if pair.written else 0) for pair in left)
    for pair in left:
        pair.carries += 1
    made = step.tokens - unborn + lost
    idle = 1 - made / (len(step.engines) * now * model.best_rate()) if now else 0.0
    return Rollout(now, made, step.finished, len(left), lost, now - responded, idle), left


def against_none(
    model: EngineModel, work: Workload, engines: int, steps: int, seeds: Sequence[int], warm_up: int = 2
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
    parser.add_argument("--steps", type=int, default=12, help="rollouts in a row, of which two are not counted")
    parser.add_argument("--seeds", type=int, default=5)
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
