"""Grade an evaluation again without generating: python -m eval.regrade OUT [OUT ...]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from eval import prompt_comparison, sample_plan, seed_folders, thinking_end
from eval.arguments import add_scorers, add_thinking_end
from eval.benchmark_questions import identity_of_scorer
from eval.grading import judge, judged_by, regraded
from eval.identity import Draws
from eval.messages import Question
from eval.publication import DataEnd, data_end
from eval.results import write_checkpoints, write_results
from eval.seeds import recorded, write_seeds
from eval.store import EXTENDED, METRICS, SETTINGS, Store, evaluated, evaluations, read_json, read_questions
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
    add_thinking_end(parser, "as the folder's settings record it")
    options = parser.parse_args(arguments)
    return cli.run(
        lambda: _run(options.folders, options.scorers, thinking_end.checked(options.thinking_end)),
        after="samples stay; the same command again finishes",
    )


def _run(folders: list[Path], allowed: Collection[str], end: str) -> None:
    for folder in folders:
        found, listed = evaluations(folder), recorded(folder)
        for evaluation in found:
            regrade(evaluation, allowed, end)
        if labels := prompt_comparison.recorded(folder):
            prompt_comparison.write_comparison(folder, labels)
            continue
        for own in seed_folders.existing(folder) or [folder]:
            if own not in found:
                write_checkpoints(own)
        if listed:
            write_seeds(folder, listed)


def regrade(folder: Path, allowed: Collection[str] = (), end: str = thinking_end.AUTO) -> int:
    """Judge the samples of `folder` again and write its results; returns how many verdicts changed.

    `allowed`: the functions that its questions may name as their scorer. `end`: the checked value of `--thinking-end`;
    `auto` is the end tag that the folder's settings record.

    The results are of the last command's benchmarks and questions, as before. Samples of other benchmarks are judged as
    well; those of questions that the last command's `--limit` left out stay as they are.

    Raises:
        UserError: the folder is no evaluation, one that never finished or is damaged, or a scorer of its is not allowed or
            cannot be loaded. Nothing is judged then.
    """
    questions = {name: read_questions(folder, name) for name in evaluated(folder)}
    before, draws = _finished(folder)
    end_of_data = _data_end(folder, before["model"])
    scorers = {name: _scorer(folder, own, allowed) for name, own in questions.items()}
    changed = left_out = 0
    with Store(folder) as store, Verifier() as verifier:
        settings = read_json(folder / SETTINGS) | {"scorers": scorers, "versions": judged_by()}
        if thinking := thinking_end.recorded(end, thinking_end.recorded_end(settings)):
            settings["template"] = settings.get("template", {}) | thinking
        for name, own in questions.items():
            some_changed, some_left_out = _regrade(store, name, own, verifier, thinking_end.recorded_end(settings))
            changed, left_out = changed + some_changed, left_out + some_left_out
        disk.write_json(folder / SETTINGS, settings)
        manifest = before["manifest"] | {"regraded": provenance.now()}
        paper = paper_row(manifest["paper"]) if manifest.get("paper") else None
        shown = {name: questions[name] for name in before["benchmarks"]}
        write_results(store, before["model"], shown, draws, manifest, paper, end_of_data)
    print(
        f"{folder}: {changed} verdicts changed" + (f", {left_out} samples beyond --limit left out" if left_out else "")
    )
    return changed


def _data_end(folder: Path, model: str) -> DataEnd:
    """As the evaluation had it; one of before there were dates goes by its model's name."""
    if not (folder / EXTENDED).exists():
        return data_end(model, None)
    try:
        found = read_json(folder / EXTENDED)["data_end"]
        return DataEnd(found["day"] and date.fromisoformat(found["day"]), str(found["source"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / EXTENDED}: damaged ({error}); run eval.run again") from None


def _scorer(folder: Path, questions: list[Question], allowed: Collection[str]) -> str:
    """The scorer of a benchmark's questions, as the settings name it: one for all of them, where nobody edited the file."""
    names = list(dict.fromkeys(question.scorer for question in questions)) or [MATH]
    identities = [identity_of_scorer(folder, name, allowed) for name in names]
    return identities[0]


def _finished(folder: Path) -> tuple[dict[str, Any], dict[str, Draws]]:
    """The content of metrics.json, and the draws that it is based on, by benchmark."""
    if not (folder / METRICS).exists():
        raise UserError(f"{folder}: not finished, no {METRICS} in it; run eval.run again first")
    found = read_json(folder / METRICS)
    try:
        draws = sample_plan.read(found["settings"], list(found["benchmarks"]))
        if not all(isinstance(found[key], dict) for key in ("benchmarks", "manifest")) or not isinstance(
            found["model"], str
        ):
            raise TypeError("another kind of value than eval.run writes")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / METRICS}: damaged ({error}); run eval.run again") from None
    return found, draws


def _regrade(
    store: Store, name: str, questions: list[Question], verifier: Verifier, end: str | None
) -> tuple[int, int]:
    """Returns how many verdicts changed, and how many samples could not be judged because their question is missing."""
    by_id = {question.id: question for question in questions}
    samples = list(store.samples(name))
    found, rest = [], iter(samples)
    with cli.progress(name, len(samples), "samples") as bar:
        while batch := list(islice(rest, _BATCH)):
            known = [sample for sample in batch if sample.question in by_id]
            openings = [thinking_end.opening(end, sample.thought) for sample in known]
            verdicts = iter(judge(verifier, [(s.response, by_id[s.question]) for s in known], openings))
            found += [regraded(s, *next(verdicts)) if s.question in by_id else s for s in batch]
            bar.update(len(batch))
    store.replace(name, found)
    changed = sum(new != old for new, old in zip(found, samples, strict=True))
    return changed, sum(sample.question not in by_id for sample in samples)


if __name__ == "__main__":
    sys.exit(main())
