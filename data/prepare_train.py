"""Prepare a training set: python data/prepare_train.py --source NAME --output-dir DIR [...] (see --help)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import command, sources
from data.cleaning import STEPS, Question
from data.inputs import Input, open_file, open_hub
from data.output import REPORT, OutputFolder, json_lines, question_row
from data.preparation import Benchmark, Options, Prepared, prepare, read_benchmarks
from data.questions import LANGUAGES
from data.sources import Form, Source
from openrlhf_mel.errors import UserError

TRAIN, VALIDATION, PROVENANCE = "train.jsonl", "validation.jsonl", "provenance.jsonl"
_WIDTH = 24


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    options = _parser().parse_args(arguments)
    return command.run(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
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
    source = _source(options)
    benchmarks = read_benchmarks(options.benchmarks_dir) if options.benchmarks_dir else []
    with OutputFolder(options.output_dir) as output:  # an unwritable folder shows before the work
        rows = _open(options, source)
        prepared = prepare(rows, source, benchmarks, chosen)
        datasource = options.datasource or source.name
        rows_by_name = _write(output, prepared, datasource)
        report = _report(prepared, source, benchmarks)
        output.write_json(REPORT, report)
        outdated = () if prepared.validation else (VALIDATION,)
        output.commit(_manifest(rows, source, benchmarks, chosen, datasource, prepared), outdated)
    _print_summary(report, prepared, source, options.output_dir, rows_by_name)


def _source(options: argparse.Namespace) -> Source:
    if options.source != "custom":
        return sources.load(sources.TRAINING)[options.source]
    if not options.input:
        raise UserError("--source custom: needs --input FILE, with --question-column and --answer-column")
    form = Form(options.question_column, options.answer_column, options.answer_in)
    return Source("custom", "", (form,))


def _open(options: argparse.Namespace, source: Source) -> Input:
    if options.input:
        return open_file(options.input, source.hub)
    return open_hub(source.hub, options.revision)


def _write(output: OutputFolder, prepared: Prepared, datasource: str) -> dict[str, int]:
    """Write the questions in the order of their ids, which is as good as random and depends on content alone."""
    parts = {TRAIN: prepared.train} | ({VALIDATION: prepared.validation} if prepared.validation else {})
    rows = {name: _with_ids(questions, datasource) for name, questions in parts.items()}
    for name, pairs in rows.items():
        output.write(name, json_lines(row for row, _ in pairs))
    everything = sorted((pair for pairs in rows.values() for pair in pairs), key=lambda pair: pair[0]["id"])
    output.write(PROVENANCE, json_lines({"id": row["id"], "rows": sorted(q.rows)} for row, q in everything))
    return {name: len(pairs) for name, pairs in rows.items()}


def _with_ids(questions: Iterable[Question], datasource: str) -> list[tuple[dict[str, str], Question]]:
    """Rows in the order of their ids. Copies, which only stand here when duplicates are kept, get a number."""
    rows = [(question_row(q.text, q.answer, datasource), q) for q in sorted(questions, key=lambda q: q.order)]
    seen: Counter[str] = Counter()
    for row, _ in rows:
        seen[row["id"]] += 1
        if seen[row["id"]] > 1:
            row["id"] += f"-{seen[row['id']]}"
    return sorted(rows, key=lambda pair: pair[0]["id"])


def _report(prepared: Prepared, source: Source, benchmarks: list[Benchmark]) -> dict[str, Any]:
    return {
        "source": source.name,
        "content_sha256": prepared.content_sha256,
        "known_as": source.known.get(prepared.content_sha256),
        "rows_in": prepared.rows_in,
        "rows_out": len(prepared.train) + len(prepared.validation),
        "train": len(prepared.train),
        "validation": len(prepared.validation),
        "changed": prepared.changed,
        "dropped": prepared.dropped,
        "compared_with": [benchmark.name for benchmark in benchmarks],
        "contamination": prepared.contamination,
    }


def _manifest(
    rows: Input, source: Source, benchmarks: list[Benchmark], chosen: Options, datasource: str, prepared: Prepared
) -> dict[str, Any]:
    """No date and no path: the same input gives the same manifest."""
    return {
        "made_by": "data/prepare_train.py",
        "source": {"name": source.name, **rows.origin, "content_sha256": prepared.content_sha256},
        "options": dataclasses.asdict(chosen) | {"skip": sorted(chosen.skip), "datasource": datasource},
        "benchmarks": {benchmark.name: benchmark.sha256 for benchmark in benchmarks},
        "versions": command.versions(),
    }


def _print_summary(
    report: dict[str, Any], prepared: Prepared, source: Source, folder: Path, written: dict[str, int]
) -> None:
    print(f"{'rows in':<{_WIDTH}}{report['rows_in']:>10,}")
    for reason, found in prepared.dropped.items():
        print(f"  {reason:<{_WIDTH - 2}}{-found['count']:>10,}")
    print(f"{'questions out':<{_WIDTH}}{report['rows_out']:>10,}")
    for name, found in prepared.contamination.items():
        print(f"near {name:<{_WIDTH - 5}}{found['near']:>10,} of {found['questions']}")
    if not prepared.contamination:
        print("warning: not compared with any benchmark: pass --benchmarks-dir to decontaminate", file=sys.stderr)
    if source.known and not report["known_as"]:
        print(f"note: this copy's content is none of those that {sources.TRAINING.name} knows", file=sys.stderr)
    for name in written:
        print(folder / name)


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
        prog="python data/prepare_train.py",
        description="Make a training set for OpenRLHF out of a public one (or your own), and say what was wrong in it.",
        epilog="\n".join(
            [
                "sources:",
                *lines,
                f"  {'custom':<18}your own .jsonl or .parquet: --input, --question-column, --answer-column",
                "",
                "steps, in this order:",
                *steps,
                "",
                "example:",
                "  python data/prepare_benchmarks.py --output-dir prepared/benchmarks",
                "  python data/prepare_train.py --source dapo-math-17k --output-dir prepared/dapo "
                "--benchmarks-dir prepared/benchmarks",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", required=True, choices=[*known, "custom"], metavar="NAME", help="one of the sources below")
    add("--output-dir", required=True, type=Path, metavar="DIR",
        help=f"folder for {TRAIN}, {VALIDATION}, {PROVENANCE}, report.json and manifest.json")  # fmt: skip
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
    custom.add_argument("--question-column", default="question", metavar="NAME",
                        help="column of the questions; a field of a nested column as column.field (default: question)")  # fmt: skip
    custom.add_argument(
        "--answer-column", default="answer", metavar="NAME", help="column of the answers (default: answer)"
    )
    custom.add_argument("--answer-in", default="plain", choices=("plain", "boxed", "hashes"),
                        help="the answer is the whole cell, in its last \\boxed{}, or after its last #### (default: plain)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
