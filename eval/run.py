"""Evaluate a model, or the checkpoints of a training run: python -m eval.run (see --help)."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import arguments, backends, summary
from eval.benchmark_questions import DEFAULT, Benchmark, Template, load_benchmarks, load_template
from eval.checkpoint_models import find
from eval.converted_models import materialised
from eval.grading import Grader, judged_by
from eval.identity import Draws, differences, requests, settings, with_scorers
from eval.messages import Backend, BackendError, Sampling
from eval.results import write_checkpoints, write_results
from eval.selection import select
from eval.store import SETTINGS, SUMMARY, Store, read_json, request_key
from eval.training_run import Run, read_run
from openrlhf_mel import disk, provenance
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import Verifier
from toolkit import cli

MODELS = "models"


@dataclass(frozen=True)
class EvaluationPlan:
    """The settings that a command uses for every model."""

    benchmarks: list[Benchmark]
    template: Template
    draws: Draws
    sampling: Sampling
    chat: bool
    seed: int
    contamination: dict[str, dict[str, int]] | None


@dataclass(frozen=True)
class Target:
    """A model to evaluate.

    Attributes:
        name: its name in the results.
        folder: the folder of its samples and results.
        model: a context with the model that the backend loads: a checkpoint has to be converted first.
        step: of a checkpoint.
        paper: the paper's row to show beside it.
    """

    name: str
    folder: Path
    model: Callable[[], AbstractContextManager[str]]
    step: int | None
    paper: summary.PaperRow | None


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit code: 0; 2 for bad input; 1 if model, disk or machine fails; 130 if interrupted."""
    options = arguments.parser().parse_args(argv)
    after = f"samples that were written to {options.output_dir} stay, and eval.run goes on with them"
    try:
        return cli.run(lambda: _run(options), print, after)
    except BackendError as error:
        print("\n".join(filter(None, (f"error: {error}; {after}", error.details))), file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> str:
    """Evaluate; returns the text to print."""
    draws = Draws.parse(options.n, options.metrics)  # before anything is loaded: refuses impossible metrics
    sampling = arguments.sampling(options)
    arguments.check_backend(options)
    arguments.check_output(options)
    run = read_run(options.run) if options.run else None
    plan = EvaluationPlan(
        benchmarks=load_benchmarks(
            options.data_dir, arguments.names(options.benchmarks), options.limit, options.scorers
        ),
        template=load_template(options.template or (run.template if run else DEFAULT)),
        draws=draws,
        sampling=sampling,
        chat=options.chat or bool(run and run.chat),
        seed=options.seed,
        contamination=summary.read_contamination(options.train_report) if options.train_report else None,
    )
    for target in _targets(options, run):
        evaluate(target, plan, options)
    if run:
        write_checkpoints(options.output_dir)
    shown = (options.output_dir / SUMMARY).read_text(encoding="utf-8").split("## Settings")[0].rstrip()
    return f"{shown}\n\n{options.output_dir}"


def evaluate(target: Target, plan: EvaluationPlan, options: argparse.Namespace) -> None:
    """Draw the missing samples, grade them as they arrive, and write the results.

    Raises:
        UserError: bad input, or a folder with samples of other settings.
        BackendError: the model cannot be reached or run; earlier samples are kept.
    """
    started = provenance.now()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(target.folder))
        backend = stack.enter_context(_backend(stack.enter_context(target.model()), plan.chat, options))
        data = {benchmark.name: benchmark.sha256 for benchmark in plan.benchmarks}
        scorers = {benchmark.name: benchmark.scorer for benchmark in plan.benchmarks}
        _settle(
            store,
            settings(
                backend.identity(), plan.template, plan.sampling, plan.chat, plan.seed, data, scorers, judged_by()
            ),
        )
        drawn = _draw(store, backend, plan, target.name)
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
        questions = {benchmark.name: benchmark.questions for benchmark in plan.benchmarks}
        write_results(store, target.name, questions, plan.draws, manifest, target.paper)


def _draw(store: Store, backend: Backend, plan: EvaluationPlan, name: str) -> int:
    for benchmark in plan.benchmarks:
        store.write_questions(benchmark.name, benchmark.questions)
    there = {(b.name, *sample.key) for b in plan.benchmarks for sample in store.samples(b.name)}
    every = requests(plan.benchmarks, plan.template, plan.draws, plan.seed)
    missing = [request for request in every if (request.benchmark, *request_key(request)) not in there]
    if not missing:
        return 0
    questions = {(question.benchmark, question.id): question for b in plan.benchmarks for question in b.questions}
    with (
        cli.progress(name.rstrip("/").rpartition("/")[2][-18:], len(every), "samples") as bar,
        Verifier() as verifier,
        Grader(store, questions, verifier, written=bar.update) as grader,
        contextlib.closing(backend.generate(missing, plan.sampling)) as responses,
    ):
        bar.update(len(every) - len(missing))
        for response in responses:
            grader.grade(response)
    return len(missing)


def _settle(store: Store, chosen: dict[str, Any]) -> None:
    """Refuse to mix samples of different settings; else record them, with the benchmarks of earlier commands."""
    folder, path = store.folder, store.folder / SETTINGS
    if store.has_samples():
        if not path.exists():
            raise UserError(f"--output-dir {folder}: holds samples without {SETTINGS}; choose another folder")
        old = read_json(path)
        if changed := differences(old, chosen):
            lines = "\n".join(f"  {line}" for line in changed)
            raise UserError(
                f"--output-dir {folder}: holds samples of other settings; choose another folder. What changed:\n{lines}"
            )
        earlier = with_scorers(old)
        chosen = chosen | {key: earlier[key] | chosen[key] for key in ("data_sha256", "scorers")}
    disk.write_json(path, chosen)


@contextlib.contextmanager
def _backend(model: str, chat: bool, options: argparse.Namespace) -> Iterator[Backend]:
    own = arguments.backend_options(options)
    backend = backends.make(options.backend, model=model, chat=chat, **own)
    try:
        yield backend
    finally:
        backend.close()


def _targets(options: argparse.Namespace, run: Run | None) -> list[Target]:
    named = summary.check_paper_row(options.paper) if options.paper else None
    if run is None:
        paper = named or summary.paper_row(options.model)
        return [Target(options.model, options.output_dir, lambda: contextlib.nullcontext(options.model), None, paper)]
    method = "mel" if run.config.get("mel.enable") else "grpo"
    trained = summary.paper_row(run.base, method) if run.has_paper_objective else None
    models = options.output_dir / MODELS

    def target(checkpoint: Any) -> Target:
        @contextlib.contextmanager
        def model() -> Iterator[str]:
            with materialised(checkpoint, models, keep=options.keep_models) as path:
                yield str(path)

        name = f"{run.folder.name}/{checkpoint.label}"
        return Target(name, options.output_dir / checkpoint.label, model, checkpoint.step, named or trained)

    return [target(checkpoint) for checkpoint in select(find(options.run), options.checkpoints)]


if __name__ == "__main__":
    sys.exit(main())
