"""Prepare a training set: python -m data.prepare_train --source NAME --output-dir DIR [...] (see --help)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data import sources
from data.cleaning import STEPS, SourceQuestion
from data.near_benchmarks import ReferenceBenchmark, read_benchmarks
from data.preparation import Options, Prepared, prepare
from data.rows import question_row, scorer_column
from data.sameness import LANGUAGES
from data.source_files import HubError, Input, open_file, open_hub
from data.sources import CUSTOM, Form, Source, download_command
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH, check_scorer, check_scorer_name
from toolkit import cli
from toolkit.outputs import MANIFEST, REPORT, OutputFolder, json_lines

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
PROVENANCE, DROPPED = "provenance.jsonl", "dropped.jsonl"
_WIDTH = 24
_CUSTOM = {"question_column": "question", "answer_column": "answer", "answer_in": "plain"}


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    return cli.run(lambda: _run(_parser().parse_args(arguments)), lambda summary: summary())


def _run(options: argparse.Namespace) -> Callable[[], None]:
    """Prepare and write; returns a function that prints the summary."""
    chosen = _chosen(options)
    source = _source(options)
    check_scorer(source.answer)
    datasource = options.datasource or source.name
    _check_unused(options)
    _check_folder(options, source, datasource)
    benchmarks = read_benchmarks(options.benchmarks_dir) if options.benchmarks_dir else []
    with OutputFolder(options.output_dir) as output:  # detects an unwritable folder before the work
        rows = _open(options, source)
        prepared = prepare(rows, source, benchmarks, chosen)
        _write(output, prepared, datasource, source.answer)
        report = _report(prepared, source, benchmarks)
        output.write_json(REPORT, report)
        outdated = () if prepared.validation else (VALIDATION,)
        output.commit(_manifest(rows, source, benchmarks, chosen, datasource, prepared), outdated)
    _print_notes(report, source, options)
    return lambda: _print_summary(report, chosen, options.output_dir)


def _chosen(options: argparse.Namespace) -> Options:
    chosen = Options(
        skip=frozenset(_names("--skip", options.skip, STEPS)),
        languages=tuple(_names("--languages", options.languages, LANGUAGES)),
        max_similarity=options.max_similarity,
        validation=options.validation,
    )
    if not 0 < chosen.max_similarity <= 1:
        raise UserError(f"--max-similarity {chosen.max_similarity}: expected a number above 0, up to 1")
    if chosen.validation < 0:
        raise UserError(f"--validation {chosen.validation}: expected a number of questions, 0 for none")
    return chosen


def _source(options: argparse.Namespace) -> Source:
    if options.source != CUSTOM:
        return sources.load(sources.TRAINING)[options.source]
    if not options.input:
        raise UserError("--source custom: needs --input FILE, with --question-column and --answer-column")
    question, answer, read = (getattr(options, name) or default for name, default in _CUSTOM.items())
    scorer = options.scorer or MATH
    try:
        check_scorer_name(scorer)
    except UserError as error:
        raise UserError(f"--scorer: {error}") from None
    return Source(CUSTOM, (Form(question, answer, read),), answer=scorer)


def _check_unused(options: argparse.Namespace) -> None:
    """Refuse flags that would have no effect."""
    for name in (*_CUSTOM, "scorer"):
        if options.source != CUSTOM and getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')}: is for --source custom, found --source {options.source}")
    if options.revision and options.input:
        raise UserError("--revision: is for the hub, found --input as well; leave one out")


def _check_folder(options: argparse.Namespace, source: Source, datasource: str) -> None:
    """Refuse to overwrite an input, or another training set."""
    folder = options.output_dir
    for flag, path in (("--input", options.input), ("--benchmarks-dir", options.benchmarks_dir)):
        if path and folder.resolve() in (path.resolve(), path.resolve().parent if path.is_file() else None):
            raise UserError(f"--output-dir {folder}: is where {flag} lies; choose a folder of its own")
    if not (folder / MANIFEST).exists():
        return
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        there = manifest["source"]["name"], manifest["options"]["datasource"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"--output-dir {folder}: its {MANIFEST} is none of a training set; choose another folder"
        ) from None
    if there != (source.name, datasource):
        raise UserError(
            f"--output-dir {folder}: holds the training set {there[1]}; choose another folder, or remove it"
        )


def _open(options: argparse.Namespace, source: Source) -> Input:
    if options.input:
        return open_file(options.input, source.hub)
    assert source.hub, "a source that is not on the hub needs --input"
    try:
        return open_hub(source.hub, options.revision)
    except HubError as error:
        raise UserError(
            f"{error}. On a node with internet:\n  {download_command(source.hub, options.revision)}\n"
            f"then here: --input FOLDER/{source.hub.file}"
        ) from None


def _write(output: OutputFolder, prepared: Prepared, datasource: str, scorer: str) -> None:
    """Write the questions in the order of their ids: as good as random, and dependent on content alone."""
    parts = {TRAIN: prepared.train} | ({VALIDATION: prepared.validation} if prepared.validation else {})
    rows = {name: _with_ids(questions, datasource, scorer) for name, questions in parts.items()}
    for name, pairs in rows.items():
        output.write(name, json_lines(row for row, _ in pairs))
    everything = sorted((pair for pairs in rows.values() for pair in pairs), key=lambda pair: pair[0]["id"])
    output.write(
        PROVENANCE,
        json_lines({"id": row["id"], "rows": sorted(q.rows), "copies": sorted(q.copies)} for row, q in everything),
    )
    output.write(
        DROPPED,
        json_lines(
            {"reason": reason, "rows": sorted(q.rows), "question": q.text, "answer": q.answer, "detail": detail}
            for q, (reason, detail) in prepared.state.reasons.items()
        ),
    )


def _with_ids(
    questions: Iterable[SourceQuestion], datasource: str, scorer: str
) -> list[tuple[dict[str, str], SourceQuestion]]:
    """Rows in the order of their ids. Copies, which occur only when duplicates are kept, get a number."""
    rows = [(question_row(q.text, q.answer, datasource, scorer), q) for q in sorted(questions, key=lambda q: q.order)]
    seen: Counter[str] = Counter()
    for row, _ in rows:
        seen[row["id"]] += 1
        if seen[row["id"]] > 1:
            row["id"] += f"-{seen[row['id']]}"
    return sorted(rows, key=lambda pair: pair[0]["id"])


def _report(prepared: Prepared, source: Source, benchmarks: list[ReferenceBenchmark]) -> dict[str, Any]:
    return {
        "source": source.name,
        "scorer": source.answer,
        "content_sha256": prepared.content_sha256,
        "known_as": source.known.get(prepared.content_sha256),
        "rows_in": prepared.rows_in,
        "rows_out": len(prepared.train) + len(prepared.validation),
        "train": len(prepared.train),
        "validation": len(prepared.validation),
        "languages": prepared.languages,
        "changed": prepared.changed,
        "dropped": prepared.state.dropped,
        "compared_with": [benchmark.name for benchmark in benchmarks],
        "contamination": prepared.contamination,
    }


def _manifest(
    rows: Input,
    source: Source,
    benchmarks: list[ReferenceBenchmark],
    chosen: Options,
    datasource: str,
    prepared: Prepared,
) -> dict[str, Any]:
    """The manifest, without date and path: the same input gives the same manifest."""
    return {
        "made_by": "data/prepare_train.py",
        "source": {"name": source.name, **rows.origin, "content_sha256": prepared.content_sha256},
        "options": dataclasses.asdict(chosen)
        | {"skip": sorted(chosen.skip), "datasource": datasource, **scorer_column(source.answer)},
        "benchmarks": {benchmark.name: benchmark.sha256 for benchmark in benchmarks},
        "versions": cli.versions(),
    }


def _print_summary(report: dict[str, Any], chosen: Options, folder: Path) -> None:
    print(f"{'rows in':<{_WIDTH}}{report['rows_in']:>10,}")
    for reason, found in report["dropped"].items():
        print(f"  {reason:<{_WIDTH - 2}}{-found['count']:>10,}")
    print(f"{'questions out':<{_WIDTH}}{report['rows_out']:>10,}")
    for name, found in report["contamination"].items():
        kept = sum(not pair["dropped"] for pair in found["pairs"])
        near = f"{found['near']:>10,} of {found['questions']:,} questions have a copy of similarity {chosen.max_similarity:g} or more"
        print(f"  {name:<{_WIDTH - 2}}{near}" + (f", NOT dropped: {kept} pairs" if kept else ""))
    print(
        f"{folder}: {', '.join(name for name in (TRAIN, VALIDATION) if name != VALIDATION or report['validation'])}, {REPORT} ..."
    )


def _print_notes(report: dict[str, Any], source: Source, options: argparse.Namespace) -> None:
    """Print notes for the user although nothing failed."""
    notes = []
    if not report["compared_with"]:
        notes.append("warning: not compared with any benchmark: pass --benchmarks-dir to decontaminate")
    elif absent := [name for name in sources.load(sources.BENCHMARKS) if name not in report["compared_with"]]:
        notes.append(f"note: --benchmarks-dir has no {', '.join(absent)}: not compared with these")
    if report["changed"]["half_unwrapped"]:
        count = report["changed"]["half_unwrapped"]
        notes.append(f"warning: {count:,} rows had only half of the source's wrapping: look at their questions")
    if source.known and not report["known_as"]:
        notes.append(f"note: this copy's content is none of those that {sources.TRAINING.name} knows")
    boxed = sum("\\boxed" in before for before in report["changed"]["answers"])
    if source.name == CUSTOM and boxed and not options.answer_in:
        notes.append("note: some answers stand in a \\boxed{}: is the column a solution? Then pass --answer-in boxed")
    for note in notes:
        print(note, file=sys.stderr)


def _names(flag: str, text: str, known: Iterable[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"{flag}: found {name!r}, expected some of {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    known = sources.load(sources.TRAINING)
    lines = [f"  {name:<18}{source.about}" for name, source in known.items()]
    steps = [f"  {name:<18}{about}" for name, about in STEPS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare_train",
        description="Make a training set for OpenRLHF out of a public one (or your own), and say what was wrong in it.",
        epilog="\n".join(
            [
                "sources:",
                *lines,
                f"  {CUSTOM:<18}your own .jsonl or .parquet: --input, --question-column, --answer-column",
                "",
                "steps, in this order:",
                *steps,
                "",
                "example:",
                "  python -m data.prepare_benchmarks --output-dir prepared/benchmarks",
                "  python -m data.prepare_train --source dapo-math-17k --output-dir prepared/dapo "
                "--benchmarks-dir prepared/benchmarks",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", required=True, choices=[*known, CUSTOM], metavar="NAME", help="one of the sources below")
    add("--output-dir", required=True, type=Path, metavar="DIR",
        help=f"folder for {TRAIN}, {VALIDATION}, {PROVENANCE}, {DROPPED}, {REPORT} and {MANIFEST}")  # fmt: skip
    add("--input", type=Path, metavar="FILE",
        help="read this .jsonl or .parquet file (or a folder with a copy of the hub's data set) instead of the hub")  # fmt: skip
    add("--revision", metavar="REV", help="branch, tag or commit on the hub (default: its newest)")
    add("--benchmarks-dir", type=Path, metavar="DIR",
        help="folder of prepare_benchmarks.py; without it nothing is decontaminated")  # fmt: skip
    add("--max-similarity", type=float, default=0.75, metavar="S",
        help="from this similarity to a benchmark question on a question is dropped; 1 drops equal ones only (default: 0.75)")  # fmt: skip
    add("--validation", type=int, default=0, metavar="N",
        help="hold out N questions that have no near copy among the others (default: 0)")  # fmt: skip
    add("--languages", default="", metavar="LIST",
        help=f"keep only these, separated by commas: {', '.join(LANGUAGES)} (default: all)")  # fmt: skip
    add("--skip", default="", metavar="STEPS", help="steps to leave out, separated by commas (default: none)")
    add("--datasource", metavar="NAME", help="what to write under `datasource` (default: the source's name)")
    custom = parser.add_argument_group("for --source custom")
    custom.add_argument("--question-column", metavar="NAME",
                        help="column of the questions; a field of a nested column as column.field (default: question)")  # fmt: skip
    custom.add_argument("--answer-column", metavar="NAME", help="column of the answers (default: answer)")
    custom.add_argument("--scorer", metavar="NAME",
                        help="how answers are judged: math, choice, or your own function as package.module:function (default: math)")  # fmt: skip
    custom.add_argument("--answer-in", choices=("plain", "boxed", "hashes"),
                        help="the answer is the whole cell, in its \\boxed{} (as docs/verifier.md reads it), or after its last #### (default: plain)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
