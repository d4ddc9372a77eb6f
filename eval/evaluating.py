"""The evaluation of one model with one or several seeds: settings, samples, verdicts, results."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval import arguments, backends, seed_folders, settling, summary, thinking_end
from eval.benchmark_questions import Benchmark, Template
from eval.grading import Grader, judged_by
from eval.identity import Draws, requests, settings
from eval.messages import Backend, PromptingBackend, Request, Sampling
from eval.publication import DataEnd
from eval.response_room import shortened
from eval.results import write_results
from eval.seed_settings import check_seeds
from eval.store import SETTINGS, Store, read_json, request_key
from openrlhf_mel import provenance
from openrlhf_mel.verifier import Verifier
from toolkit import cli


@dataclass(frozen=True)
class EvaluationPlan:
    """The settings that a command uses for every model and seed.

    Attributes:
        thinking_end: the checked value of `--thinking-end`.
        shorten: whether responses are shortened to what fits into the model.
    """

    benchmarks: list[Benchmark]
    template: Template
    draws: dict[str, Draws]
    sampling: Sampling
    chat: bool
    contamination: dict[str, dict[str, int]] | None
    thinking_end: str
    shorten: bool


@dataclass(frozen=True)
class Target:
    """A model to evaluate.

    Attributes:
        name: its name in the results.
        label: the name of its folder; empty where it needs none of its own.
        model: a context with the model that the backend loads: a checkpoint has to be converted first.
        step: of a checkpoint.
        paper: the paper's row to show beside it.
        end: of its data.
    """

    name: str
    label: str
    model: Callable[[], AbstractContextManager[str]]
    step: int | None
    paper: summary.PaperRow | None
    end: DataEnd


def evaluate(target: Target, plan: EvaluationPlan, folders: Mapping[int, Path], options: argparse.Namespace) -> None:
    """Draw the missing samples, grade them as they arrive, and write the results: of each seed into its folder.

    Raises:
        UserError: bad input, or a folder, of any seed, with samples of other settings: nothing is drawn.
        BackendError: the model cannot be reached or run; earlier samples are kept.
    """
    started = provenance.now()
    with contextlib.ExitStack() as stack:
        stores = {seed: stack.enter_context(Store(folder / target.label)) for seed, folder in folders.items()}
        backend = stack.enter_context(_backend(stack.enter_context(target.model()), plan.chat, options))
        data = {benchmark.name: benchmark.sha256 for benchmark in plan.benchmarks}
        scorers = {benchmark.name: benchmark.scorer for benchmark in plan.benchmarks}
        model = backend.identity()
        of_template = backend.thinking_end() if isinstance(backend, PromptingBackend) else None
        thinking = thinking_end.recorded(plan.thinking_end, of_template)
        questions = {benchmark.name: benchmark.questions for benchmark in plan.benchmarks}
        plans, chosen = dict[int, EvaluationPlan](), dict[int, dict[str, Any]]()
        for seed, store in stores.items():
            own = plans[seed] = plan
            if plan.shorten and isinstance(backend, PromptingBackend):
                asked = requests(plan.benchmarks, plan.template, plan.draws, seed)
                own = plans[seed] = replace(plan, sampling=_shortened(store, backend, plan.sampling, asked))
            new = settings(model, own.template, own.sampling, own.chat, seed, data, scorers, judged_by(), thinking)
            chosen[seed] = settling.settled(store, new)
        beside = [folder / target.label for folder in seed_folders.existing(options.output_dir)]
        there = {folder: found for folder in beside if (found := settling.recorded(folder)) is not None}
        check_seeds(there | {store.folder: chosen[seed] for seed, store in stores.items()})
        # All of them may be drawn.
        for seed, store in stores.items():
            settling.record(store, chosen[seed])
            asked = requests(plan.benchmarks, plan.template, plan.draws, seed)
            drawn = _draw(store, backend, plans[seed], asked, target.name, thinking_end.recorded_end(chosen[seed]))
            manifest = {
                "started": started,
                "finished": provenance.now(),
                "commit": provenance.commit(),
                "drawn_now": drawn,
                "step": target.step,
                "limit": options.limit,
                "versions": cli.versions(),
                "near_in_training": plan.contamination,
                "paper": target.paper and target.paper.key,
            }
            write_results(store, target.name, questions, plan.draws, manifest, target.paper, target.end)
            started = provenance.now()  # of the next seed


def _shortened(store: Store, backend: PromptingBackend, sampling: Sampling, asked: list[Request]) -> Sampling:
    """The sampling with a length that fits beside every prompt; says so when it is another one."""
    path = store.folder / SETTINGS
    earlier = read_json(path).get("sampling", {}) if store.has_samples() and path.exists() else {}
    room = backend.room(asked)
    found = shortened(sampling, room, earlier)
    if room and found != sampling:
        print(
            f"note: --max-tokens {sampling.max_tokens} is shortened to {found.max_tokens}: the model's context holds "
            f"{room.positions} tokens, and the longest prompt ({room.question}) has {room.prompt_tokens}",
            file=sys.stderr,
        )
    return found


def _draw(
    store: Store, backend: Backend, plan: EvaluationPlan, every: list[Request], name: str, end: str | None
) -> int:
    for benchmark in plan.benchmarks:
        store.write_questions(benchmark.name, benchmark.questions)
    there = {(b.name, *sample.key) for b in plan.benchmarks for sample in store.samples(b.name)}
    missing = [request for request in every if (request.benchmark, *request_key(request)) not in there]
    if not missing:
        return 0
    questions = {(question.benchmark, question.id): question for b in plan.benchmarks for question in b.questions}
    with (
        cli.progress(name.rstrip("/").rpartition("/")[2][-18:], len(every), "samples") as bar,
        Verifier() as verifier,
        Grader(store, questions, verifier, written=bar.update, thinking_end=end) as grader,
        contextlib.closing(backend.generate(missing, plan.sampling)) as responses,
    ):
        bar.update(len(every) - len(missing))
        for response in responses:
            grader.grade(response)
    return len(missing)


@contextlib.contextmanager
def _backend(model: str, chat: bool, options: argparse.Namespace) -> Iterator[Backend]:
    own = arguments.backend_options(options)
    backend = backends.make(options.backend, model=model, chat=chat, **own)
    try:
        yield backend
    finally:
        backend.close()
