"""Evaluate a model, or the checkpoints of a training run: python -m eval.run (see --help)."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval import arguments, prompt_comparison, sample_plan, seed_folders, summary, thinking_end
from eval.benchmark_questions import DEFAULT, load_benchmarks, load_template
from eval.checkpoint_models import find
from eval.converted_models import materialised
from eval.evaluating import EvaluationPlan, Target, evaluate
from eval.messages import BackendError
from eval.publication import data_end
from eval.results import write_checkpoints
from eval.seeds import write_seeds
from eval.selection import select
from eval.store import SUMMARY
from eval.training_run import Run, read_run
from toolkit import cli

MODELS = "models"


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
    names = arguments.names(options.benchmarks)
    # Refuses impossible metrics before anything is loaded.
    sample_plan.plan(options.samples, options.n, options.metrics, {})
    sampling = arguments.sampling(options)
    arguments.check_backend(options)
    end = thinking_end.checked(options.thinking_end)
    seeds = seed_folders.parse(options.seeds)
    templates = prompt_comparison.parse(options.templates)
    arguments.check_output(options, seeds)
    run = read_run(options.run) if options.run else None
    benchmarks = load_benchmarks(options.data_dir, names, options.limit, options.scorers)
    sizes = {benchmark.name: benchmark.size for benchmark in benchmarks}
    plan = EvaluationPlan(
        benchmarks=benchmarks,
        template=load_template(options.template or (run.template if run else DEFAULT)),
        draws=sample_plan.plan(options.samples, options.n, options.metrics, sizes),
        sampling=sampling,
        chat=options.chat or bool(run and run.chat),
        contamination=summary.read_contamination(options.train_report) if options.train_report else None,
        thinking_end=end,
        shorten=bool(options.shorten),
    )
    out: Path = options.output_dir
    folders = {seed: seed_folders.place(out, seed) for seed in seeds} or {options.seed: out}
    targets = _targets(options, run)
    for label, template in templates.items():
        own = {options.seed: prompt_comparison.place(out, label)}
        evaluate(targets[0], replace(plan, template=template), own, options)
    if templates:
        prompt_comparison.write_comparison(out, list(templates))
    else:
        for target in targets:
            evaluate(target, plan, folders, options)
    if run:
        for folder in folders.values():
            write_checkpoints(folder)
    if seeds:
        write_seeds(out, list(folders.values()))
    shown = (out / SUMMARY).read_text(encoding="utf-8").split("## Settings")[0].rstrip()
    return f"{shown}\n\n{out}"


def _targets(options: argparse.Namespace, run: Run | None) -> list[Target]:
    named = summary.check_paper_row(options.paper) if options.paper else None
    if run is None:
        paper = named or summary.paper_row(options.model)
        end = data_end(options.model, options.model_date)
        model = options.model
        return [Target(model, "", lambda: contextlib.nullcontext(model), None, paper, end)]
    method = "mel" if run.config.get("mel.enable") else "grpo"
    trained = summary.paper_row(run.base, method) if run.has_paper_objective else None
    models = options.output_dir / MODELS
    end = data_end("", options.model_date)  # what it was trained on counts too, and nobody says of when that is

    def target(checkpoint: Any) -> Target:
        @contextlib.contextmanager
        def model() -> Iterator[str]:
            with materialised(checkpoint, models, keep=options.keep_models) as path:
                yield str(path)

        name = f"{run.folder.name}/{checkpoint.label}"
        return Target(name, checkpoint.label, model, checkpoint.step, named or trained, end)

    return [target(checkpoint) for checkpoint in select(find(options.run), options.checkpoints)]


if __name__ == "__main__":
    sys.exit(main())
