"""Grade an evaluation again without generating: python -m eval.regrade OUT [OUT ...]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from eval.arguments import add_scorers
from eval.benchmark_questions import identity_of_scorer
from eval.grading import judge, judged_by, regraded
from eval.identity import Draws
from eval.messages import Question
from eval.results import write_checkpoints, write_results
from eval.store import METRICS, SETTINGS, Store, evaluated, evaluations, read_json, read_questions
from eval.summary import paper_row
from openrlhf_mel import disk, provenance
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH, Verifier
from toolkit import cli

_BATCH = 256


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.regrade",
        description="Judge every sample of an evaluation anew, for example with another version of the verifier, and write "
        "its metrics. Nothing is generated.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT", help="a folder that eval.run wrote")
    add_scorers(parser)
    options = parser.parse_args(arguments)
    return cli.run(
        lambda: _run(options.folders, options.scorers), after="samples stay; the same command again finishes"
    )


def _run(folders: list[Path], allowed: Collection[str]) -> None:
    for folder in folders:
        found = evaluations(folder)
        for evaluation in found:
            regrade(evaluation, allowed)
        if found != [folder]:
            write_checkpoints(folder)


def regrade(folder: Path, allowed: Collection[str] = ()) -> int:
    """Judge the samples of `folder` again and write its results; returns how many verdicts changed.

    `allowed`: the functions that its questions may name as their scorer.

    The results are of the last command's benchmarks and questions, as before. Samples of other benchmarks are judged as
    well; those of questions that the last command's `--limit` left out stay as they are.

    Raises:
        UserError: the folder is no evaluation, one that never finished, or a scorer of its is not allowed or cannot be loaded.
    """
    questions = {name: read_questions(folder, name) for name in evaluated(folder)}
    before, draws = _finished(folder)
    scorers = {name: _scorer(folder, own, allowed) for name, own in questions.items()}
    changed = left_out = 0
    with Store(folder) as store, Verifier() as verifier:
        for name, own in questions.items():
            some_changed, some_left_out = _regrade(store, name, own, verifier)
            changed, left_out = changed + some_changed, left_out + some_left_out
        settings = read_json(folder / SETTINGS) | {"scorers": scorers, "versions": judged_by()}
        disk.write_json(folder / SETTINGS, settings)
        manifest = before["manifest"] | {"regraded": provenance.now()}
        paper = paper_row(manifest["paper"]) if manifest.get("paper") else None
        shown = {name: questions[name] for name in before["benchmarks"]}
        write_results(store, before["model"], shown, draws, manifest, paper)
    print(
        f"{folder}: {changed} verdicts changed" + (f", {left_out} samples beyond --limit left out" if left_out else "")
    )
    return changed


def _scorer(folder: Path, questions: list[Question], allowed: Collection[str]) -> str:
    """The scorer of a benchmark's questions, as the settings name it: one for all of them, where nobody edited the file."""
    names = list(dict.fromkeys(question.scorer for question in questions)) or [MATH]
    identities = [identity_of_scorer(folder, name, allowed) for name in names]
    return identities[0]


def _finished(folder: Path) -> tuple[dict[str, Any], Draws]:
    """The content of metrics.json, and the draws that it is based on."""
    if not (folder / METRICS).exists():
        raise UserError(f"{folder}: not finished, no {METRICS} in it; run eval.run again first")
    found = read_json(folder / METRICS)
    try:
        settings = found["settings"]
        draws = Draws.parse(int(settings["n"] or 1), ",".join(settings["metrics"]))
        if not all(isinstance(found[key], dict) for key in ("benchmarks", "manifest")) or not isinstance(
            found["model"], str
        ):
            raise TypeError("another kind of value than eval.run writes")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / METRICS}: damaged ({error}); run eval.run again") from None
    return found, draws


def _regrade(store: Store, name: str, questions: list[Question], verifier: Verifier) -> tuple[int, int]:
    """Returns how many verdicts changed, and how many samples could not be judged because their question is missing."""
    by_id = {question.id: question for question in questions}
    samples = list(store.samples(name))
    found, rest = [], iter(samples)
    with cli.progress(name, len(samples), "samples") as bar:
        while batch := list(islice(rest, _BATCH)):
            verdicts = iter(judge(verifier, [(s.response, by_id[s.question]) for s in batch if s.question in by_id]))
            found += [regraded(s, *next(verdicts)) if s.question in by_id else s for s in batch]
            bar.update(len(batch))
    store.replace(name, found)
    changed = sum(new != old for new, old in zip(found, samples, strict=True))
    return changed, sum(sample.question not in by_id for sample in samples)


if __name__ == "__main__":
    sys.exit(main())
