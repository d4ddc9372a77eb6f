"""Grade an evaluation again without generating: python -m eval.regrade OUT [OUT ...]."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

from data import command
from eval.grading import judge, regraded
from eval.questions import Question
from eval.results import write_results
from eval.settings import Draws
from eval.store import METRICS, SETTINGS, Store, evaluated, read_json, read_questions
from openrlhf_mel import runlog
from openrlhf_mel.verifier import Verifier

_BATCH = 256


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.regrade",
        description="Judge every sample of an evaluation anew, for example with another version of the verifier, and write "
        "its metrics. Nothing is generated.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT", help="a folder that eval.run wrote")
    options = parser.parse_args(arguments)
    return command.run(lambda: [regrade(folder) for folder in options.folders], after="samples stay as they were")


def regrade(folder: Path) -> int:
    """Judge the samples of `folder` again and write its results; returns how many verdicts changed.

    Raises:
        UserError: it is no evaluation, or one that was never finished.
    """
    questions = {name: read_questions(folder, name) for name in evaluated(folder)}
    before = read_json(folder / METRICS)
    draws = Draws.parse(before["settings"]["n"] or 1, ",".join(before["settings"]["metrics"]))
    changed = 0
    with Store(folder) as store, Verifier() as verifier:
        for name, own in questions.items():
            changed += _regrade(store, name, own, verifier)
        settings = read_json(folder / SETTINGS) | {"versions": command.versions()}
        runlog.write_json(folder / SETTINGS, settings)
        manifest = before["manifest"] | {"regraded": runlog.now()}
        write_results(store, before["model"], questions, draws, manifest)
    print(f"{folder}: {changed} verdicts changed")
    return changed


def _regrade(store: Store, name: str, questions: list[Question], verifier: Verifier) -> int:
    by_id = {question.id: question for question in questions}
    samples = [sample for sample in store.samples(name) if sample.question in by_id]
    found, rest, changed = [], iter(samples), 0
    with command.progress(name, len(samples), "samples") as bar:
        while batch := list(islice(rest, _BATCH)):
            verdicts = judge(verifier, [(sample.response, by_id[sample.question]) for sample in batch])
            for sample, (anchored, lenient) in zip(batch, verdicts, strict=True):
                found.append(regraded(sample, anchored, lenient))
                changed += found[-1] != sample
            bar.update(len(batch))
    store.replace(name, found)
    return changed


if __name__ == "__main__":
    sys.exit(main())
