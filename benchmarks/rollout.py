"""Generation time of rollouts with meta-experiences against rollouts without, by way of construction, on real vLLM.

    python -m benchmarks.rollout [--repeats 5] [--steps 4] [--medians 665,1480] [--scale 16] [--questions 32]
        [--slots 128]

Two engines of vLLM's CPU build with the toy model serve the package's own generator. Lengths, verdicts and texts are
scripted (`rollout_script.py`); what is real is every token's time, the queues, the aborts and Ray. Each repeat runs the
same questions with each way of construction, first two rollouts that are not counted, then `--steps`. Beside the figures
are those of the simulation (`rollout_simulation.py`) with the same lengths and the engines' measured batch curve.
Prints Markdown tables. Fails when the median over repeats of deferred construction's time, against the time without
construction, is more than 1.05 and more than the simulation's figure + 0.03, or when it finishes 5% fewer or more
constructions a step than streaming.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.engine_model import EngineModel
from benchmarks.rollout_script import RESPONSES, Script
from benchmarks.rollout_simulation import KINDS, Construction, rollouts
from openrlhf_mel.method.group_record import constructed
from openrlhf_mel.settings.mel_options import MELConfig

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "data" / "toy"
ENGINES = 2
WARM_UP = 2  # rollouts; deferred construction has nothing to go on with in the first, and more than later in the second
LIMIT, ABOVE_SIMULATION, FINISHED = 1.05, 0.03, 0.05
CURVE = (100, 64)  # tokens of each prompt, and new ones: the context of a response under way
SHORT, LONG, PREFILLS = 16, 128, 64  # tokens of the prompts whose prefill is measured, and their number
TRIES = 3


@dataclass(frozen=True)
class Measured:
    """A counted rollout, or the mean of several.

    Attributes:
        seconds: of the whole call of the generator.
        finished, carried: constructions that ended, and that go on in the next rollout.
        tail_s: after the last response.
        rewritten: tokens generated in vain.
        idle: see `token_timeline.idle`.
    """

    seconds: float
    finished: float
    carried: float
    tail_s: float
    rewritten: float
    idle: float

    @classmethod
    def mean(cls, each: Sequence[Measured]) -> Measured:
        """Field by field."""
        return cls(*map(statistics.fmean, zip(*map(dataclasses.astuple, each), strict=True)))


def arguments(kind: Construction, script: Script) -> Any:
    """Upstream's nested arguments, as far as the generator reads them. Log-probs are not requested."""
    mel = MELConfig(
        enable=kind != "none", construction="deferred" if kind == "deferred" else "streaming",
        template_dir=str(TOY / "templates"), measure_mismatch=False, max_new_tokens=script.longest("experience"),
        replay_max_new_tokens=script.longest("replay"),
    )  # fmt: skip
    return SimpleNamespace(
        actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=1),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
        algo=SimpleNamespace(
            advantage=SimpleNamespace(is_correction_level="off"),
            dynamic_filtering_enable=False,
            dynamic_filtering_range=(0.0, 1.0),
        ),
        data=SimpleNamespace(max_len=script.context, apply_chat_template=False, input_template=None),
        rollout=SimpleNamespace(
            batch_size=script.questions, n_samples_per_prompt=script.group, vllm_generate_batch_size=None, top_p=1.0,
            micro_batch_size=1,
        ),
        train=SimpleNamespace(num_episodes=1, micro_batch_size=1, batch_size=script.questions, dynamic_batch_enable=False),
        vllm=SimpleNamespace(enable_sleep=False),
        mel=mel,
    )  # fmt: skip


def generator(kind: Construction, script: Script, seed: int, steps: int, engines: list[Any], tokenizer: Any) -> Any:
    """The package's generator over the questions of a repeat."""
    from openrlhf_mel.upstream.dataset import prompt_format
    from openrlhf_mel.upstream.samples_generator import MetaExperienceGenerator

    class Barrier(MetaExperienceGenerator):
        """Starts all constructions after the last response."""

        def _begin(self) -> None:
            super()._begin()
            self._later: list[Any] = []

        def _start(self, candidates: Sequence[Any]) -> None:
            self._later += candidates

        def _end_constructions(self) -> tuple[int, float]:
            super()._start(self._later)
            return super()._end_constructions()

    args = arguments(kind, script)
    names = [name for number in range(steps) for name in script.names(seed, number)]
    prompts = list(map(prompt_format(args, tokenizer).question, names))

    class Loader(list):
        dataset = SimpleNamespace(prompts=prompts, questions=names, labels=["1"] * len(names))

    rows = Loader((["toy"], [prompt], ["1"], [None]) for prompt in prompts)
    made = Barrier if kind == "barrier" else MetaExperienceGenerator
    return made(SimpleNamespace(args=args), rows, None, tokenizer, engines)


def measure(kind: Construction, script: Script, seed: int, steps: int, engines: list[Any], tokenizer: Any) -> Measured:
    """Rollouts in a row, of which the first ones are not counted. The data has one more, which nothing needs to finish."""
    import ray

    from openrlhf_mel.upstream import group_sample

    ray.get([engine.follow.remote(script) for engine in engines])
    source = generator(kind, script, seed, WARM_UP + steps + 1, engines, tokenizer)
    found = []
    for _ in range(WARM_UP + steps):
        begun = time.monotonic()
        samples, *_ = source.generate_samples(max_len=script.context, max_new_tokens=script.longest("response"))
        seconds = time.monotonic() - begun
        records = group_sample.records_of(samples)
        info, ended = records[0].rollout, constructed(records)
        if dropped := {m.reason for m in ended} - {None}:
            sys.exit(f"{kind}: found Ms that were dropped ({', '.join(dropped)}), expected that the script's are kept")
        found.append(
            Measured(seconds, len(ended), info.carried_over, info.construction_tail_s, info.rewritten_tokens, info.idle)
        )
    return Measured.mean(found[WARM_UP:])


def measured_model(engines: list[Any], slots: int, script: Script) -> tuple[EngineModel, Script]:
    """The engines as the simulation takes them, all of them busy; what a request costs besides is prompt tokens.

    The latter is measured on the way that requests take, through Ray: here it shares the cores with the engines.
    """
    import ray
    from vllm import SamplingParams

    from benchmarks.rollout_engine import some_ids

    def step_s(batch: int) -> float:
        return statistics.fmean(ray.get([engine.step_s.remote(batch, *CURVE) for engine in engines]))

    def prefill_s(tokens: int) -> float:
        begun, one = time.monotonic(), SamplingParams(max_tokens=1)
        ray.get([engine.plain.remote(some_ids(tokens), one) for _ in range(PREFILLS) for engine in engines])
        return time.monotonic() - begun

    batches = sorted({2**power for power in range(slots.bit_length()) if 2**power <= slots} | {slots})
    # In turn, so that a disturbance does not hit one figure alone; the first round warms up.
    rounds = [[*map(step_s, batches), prefill_s(SHORT), prefill_s(LONG)] for _ in range(TRIES + 1)][1:]
    *steps, short, long = map(statistics.median, zip(*rounds, strict=True))
    curve, short, long = tuple(zip(batches, steps, strict=True)), short / PREFILLS, long / PREFILLS
    rate = (LONG - SHORT) / max(long - short, 1e-9)
    besides = max(0, round(short * rate - SHORT))
    costly = dataclasses.replace(script, prompt=script.prompt + besides, analysis=script.analysis + besides)
    return EngineModel(curve, slots, rate), costly


def simulated(kind: Construction, model: EngineModel, script: Script, seed: int, steps: int) -> Measured:
    """The simulation of what `measure` measures."""
    each = list(rollouts(kind, model, script, ENGINES, WARM_UP + steps, seed))[WARM_UP:]
    return Measured.mean(
        [Measured(r.seconds, r.finished, r.carried, r.waited_s, r.rewritten, r.idle) for r in each]
    )  # fmt: skip


def start(slots: int, context: int) -> tuple[list[Any], Any]:
    """Ray with two engines that answer, and the tokenizer."""
    from openrlhf_mel import launch

    os.environ["TQDM_DISABLE"] = "1"
    launch.prepare_process(MELConfig(runtime="cpu", cpu_engine="vllm"))
    import ray
    from transformers import AutoTokenizer

    from benchmarks.rollout_engine import ScriptedEngine

    ray.init(
        address="local", num_cpus=ENGINES, num_gpus=ENGINES, include_dashboard=False, object_store_memory=256 * 2**20,
        log_to_driver=False, logging_level="error",
        runtime_env={
            "worker_process_setup_hook": "openrlhf_mel.cpu.standins.install_beside_vllm",
            "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        },
    )  # fmt: skip
    remote = ray.remote(ScriptedEngine).options(num_cpus=1, num_gpus=1)
    engines = [
        remote.remote(
            model=str(TOY / "model"), tensor_parallel_size=1, distributed_executor_backend="uni", seed=number, num_gpus=1,
            max_model_len=context, max_num_seqs=slots, enable_prefix_caching=False, trust_remote_code=False,
        )
        for number in range(ENGINES)
    ]  # fmt: skip
    ray.get([engine.until_idle.remote() for engine in engines])
    return engines, AutoTokenizer.from_pretrained(TOY / "model")


def spread(values: Sequence[float]) -> str:
    """Median; mean and standard deviation; range."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = f"{statistics.fmean(values):.2f} ± {deviation:.2f}"
    return f"{statistics.median(values):.3f} ({mean}, {min(values):.2f} to {max(values):.2f})"


def told(
    median: float, found: dict[Construction, list[Measured]], model: dict[Construction, list[Measured]]
) -> tuple[list[str], list[str]]:
    """Lines of the table of one median, and what failed."""

    def ratios(of: dict[Construction, list[Measured]], kind: Construction) -> list[float]:
        return [one.seconds / none.seconds for one, none in zip(of[kind], of["none"], strict=True)]

    lines = []
    for kind in KINDS:
        mean, own = Measured.mean(found[kind]), ratios(found, kind)
        lines.append(
            f"| {median:,.0f} | {kind} | {mean.seconds:.2f} | {spread(own)} | {statistics.fmean(ratios(model, kind)):.3f} "
            f"| {mean.finished:.1f} | {mean.carried:.1f} | {mean.tail_s:.2f} | {mean.rewritten:.0f} | {mean.idle:.2f} |"
        )
    # The median: another process that disturbs one of two paired runs must not decide.
    ratio, expected = statistics.median(ratios(found, "deferred")), statistics.fmean(ratios(model, "deferred"))
    finished, streaming = (statistics.fmean(one.finished for one in found[k]) for k in ("deferred", "streaming"))
    failed = []
    if ratio > max(LIMIT, expected + ABOVE_SIMULATION):
        failed.append(
            f"median {median:,.0f}: deferred takes {ratio:.3f} of the time without construction, expected at most {LIMIT} "
            f"or the simulation's {expected:.3f} + {ABOVE_SIMULATION}"
        )
    if abs(finished - streaming) > FINISHED * streaming:
        failed.append(
            f"median {median:,.0f}: deferred finishes {finished:.2f} constructions a step, streaming {streaming:.2f}: "
            f"expected a difference of at most {FINISHED:.0%}"
        )
    return lines, failed


def main() -> None:
    """Measure, simulate, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="counted rollouts of a repeat and a way of construction")
    parser.add_argument("--medians", default="665,1480", help="of responses' lengths, before the scale")
    parser.add_argument("--scale", type=float, default=16, help="all lengths are divided by it")
    parser.add_argument("--questions", type=int, default=32, help="of a rollout, with 8 responses each")
    parser.add_argument("--slots", type=int, default=128, help="of an engine")
    own = parser.parse_args()
    begun = time.monotonic()
    script = Script(scale=own.scale, questions=own.questions)
    engines, tokenizer = start(own.slots, script.context)
    print(f"engines answer after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    model, costly = measured_model(engines, own.slots, script)
    points = ", ".join(f"{batch}:{seconds:.5f}" for batch, seconds in model.curve)
    print(
        f"Lengths divided by {own.scale:g}; {own.questions} questions x {script.group} responses on {ENGINES} engines of "
        f"{own.slots} slots; {own.repeats} repeats of {own.steps} counted rollouts.\n\nBatch curve (seconds of a step): "
        f"{points}; {model.prefill:,.0f} prompt tokens a second, {costly.prompt - script.prompt} of them for a request "
        "itself.\n",
        flush=True,
    )
    print(
        "| median | construction | s a rollout | against none | simulated | finished | carried | tail (s) | rewritten (tokens) "
        "| idle |\n|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    failed = []
    for median in map(float, own.medians.split(",")):
        lengths = dataclasses.replace(RESPONSES, median=median)
        ours, theirs = (dataclasses.replace(each, responses=lengths) for each in (script, costly))
        found: dict[Construction, list[Measured]] = {kind: [] for kind in KINDS}
        by_model: dict[Construction, list[Measured]] = {kind: [] for kind in KINDS}
        for seed in range(own.repeats):
            for kind in KINDS[seed % 4 :] + KINDS[: seed % 4]:
                found[kind].append(measure(kind, ours, seed, own.steps, engines, tokenizer))
                by_model[kind].append(simulated(kind, model, theirs, seed, own.steps))
                print(f"{median:g}, {seed}, {kind}: {found[kind][-1]}", file=sys.stderr, flush=True)
        lines, too_slow = told(median, found, by_model)
        print("\n".join(lines), flush=True)
        failed += too_slow
    print(f"\n{time.monotonic() - begun:.0f} s in all")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
