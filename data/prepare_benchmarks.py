"""Prepare the benchmarks: python -m data.prepare_benchmarks --output-dir DIR [...] (see --help)."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from data import golds, sources
from data.benchmark_inputs import from_folder, from_hub
from data.earlier_benchmarks import Entry, earlier, in_order
from data.preparation import content_sha256
from data.question_and_gold import question_and_gold
from data.rows import EVAL_ALL, question_id, scorer_column
from data.shuffled_options import SEED
from data.source_files import Input
from data.sources import Form, Source
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH, SCORER, Reference, check_golds, check_scorer
from toolkit import cli
from toolkit.outputs import REPORT, OutputFolder, json_lines

_NAMED = 5  # rows named in a message


@dataclass(frozen=True)
class PreparedBenchmark:
    """A prepared benchmark.

    Attributes:
        rows: the rows to write, in the source's order.
        rewritten: (id, the gold as published, the gold as written).
        origin: the rows' source, for the manifest.
    """

    source: Source
    rows: list[dict[str, Any]]
    rewritten: list[tuple[str, str, str]]
    origin: dict[str, Any]

    @property
    def content_sha256(self) -> str:
        """The hash of the questions and answers, independent of their order."""
        return content_sha256((row["problem"], row["answer"]) for row in self.rows)


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    return cli.run(lambda: _run(_parser().parse_args(arguments)), lambda summary: summary())


def _run(options: argparse.Namespace) -> Callable[[], None]:
    """Prepare and write; returns a function that prints the summary."""
    known = sources.load(sources.BENCHMARKS)
    asked = [name.strip() for name in options.only.split(",") if name.strip()]
    for name in asked:
        if name not in known:
            raise UserError(
                f"--only: found {name!r}, expected some of {', '.join(known)} (or add it to {sources.BENCHMARKS})"
            )
    if options.input_dir and options.input_dir.resolve() == options.output_dir.resolve():
        raise UserError(f"--output-dir {options.output_dir}: is --input-dir as well; choose a folder of its own")
    usual = [name for name, source in known.items() if not source.on_request]
    wanted = {name: known[name] for name in (asked or usual)}
    inputs = from_folder(options.input_dir, wanted) if options.input_dir else from_hub(wanted)
    absent = [name for name, opened in inputs.items() if opened is None]
    if absent and (asked or len(absent) == len(wanted)):
        where = f"--input-dir {options.input_dir}" if options.input_dir else "the hub"
        raise UserError(
            f"{where}: nothing for {', '.join(absent)}; pass --input-dir with "
            "<benchmark>.jsonl, <benchmark>.parquet or <benchmark>__<anything>.jsonl in it"
        )
    with OutputFolder(options.output_dir) as output, cli.progress("benchmarks", len(wanted), "benchmarks") as bar:
        prepared: dict[str, PreparedBenchmark] = {}
        for name, opened in inputs.items():
            if opened:
                prepared[name] = prepare(opened(), wanted[name])
            bar.update()
        entries = {name: Entry(b.rows, _report(b), b.origin) for name, b in prepared.items()}
        entries = in_order(entries | earlier(options.output_dir, entries.keys()), known)
        report = {"benchmarks": {name: entry.report for name, entry in entries.items()}, "absent": absent}
        for name, entry in entries.items():
            output.write(f"{name}.jsonl", json_lines(entry.rows))
        usual_rows = [row for name, e in entries.items() if name in usual or name not in known for row in e.rows]
        output.write(EVAL_ALL, json_lines(_for_training(usual_rows)))
        output.write_json(REPORT, report)
        output.commit(_manifest(entries))
    _print_notes(report, known, options)
    return lambda: _print_summary(report, options.output_dir)


def prepare(rows: Input, source: Source) -> PreparedBenchmark:
    """Read a benchmark, normalise its golds, and verify each against itself by the benchmark's scorer.

    Raises:
        UserError: the scorer or a row cannot be used, or the number of questions is not the benchmark's.
    """
    check_scorer(source.answer)
    form = source.form_for(rows.columns, rows.name)
    found: list[dict[str, Any]] = []
    places: list[str] = []
    rewritten: list[tuple[str, str, str]] = []
    ids: Counter[str] = Counter()
    for (number, row), cells in zip(rows.records(), _cells(rows, form), strict=True):
        if not form.selects(cells):
            continue
        place = rows.place(number)
        problem, gold = question_and_gold(cells, form, source, place)
        answer = golds.normalise(gold, source.answer)
        identity = question_id(source.name, problem)
        ids[identity] += 1
        if ids[identity] > 1:
            identity += f"-{ids[identity]}"
        if answer != gold:
            rewritten.append((identity, gold, answer))
        own = {"id": identity, "problem": problem, "answer": answer, "datasource": source.name}
        own |= scorer_column(source.answer)
        found.append(own | _extent(cells, form, place) | _source_fields(row, form, own))
        places.append(place)
    if source.questions and len(found) not in source.questions:
        expected = " or ".join(map(str, source.questions))
        raise UserError(
            f"{rows.name}: {source.name} has {expected} questions, found {len(found)}: another or a damaged file"
        )
    _check_golds(rows.name, [Reference(row["answer"], source.answer, row["problem"]) for row in found], places)
    return PreparedBenchmark(source, found, rewritten, rows.origin)


def _cells(rows: Input, form: Form) -> Iterator[dict[str, Any]]:
    """The cells of the form's columns, row by row."""
    for _, columns in rows.batches(form.columns):
        for cells in zip(*columns, strict=True):
            yield dict(zip(form.columns, cells, strict=True))


def _check_golds(name: str, answers: list[Reference], places: list[str]) -> None:
    damaged = {i: why for i, answer in enumerate(answers) if (why := golds.float_damage(answer, answer.scorer))}
    problems = damaged | check_golds(answers)
    if problems:
        named = "\n".join(f"  {places[i]}: {why}" for i, why in sorted(problems.items())[:_NAMED])
        raise UserError(
            f"{name}: {len(problems)} reference answers cannot be verified; mend the file, or take these rows out:\n{named}"
        )


def _extent(cells: dict[str, Any], form: Form, place: str) -> dict[str, Any]:
    """The unit and the tolerance of an answer, when the source has them."""
    extent: dict[str, Any] = {}
    if form.unit and cells[form.unit]:
        extent["unit"] = str(cells[form.unit])
    if form.tolerance and (written := cells[form.tolerance]):
        try:
            tolerance = math.nan if isinstance(written, bool) else float(written)
        except (TypeError, ValueError):
            tolerance = math.nan
        if not 0 <= tolerance < math.inf:
            raise UserError(f"{place}: {form.tolerance!r}: found {written!r:.60}, expected a number of 0 or more")
        extent["tolerance"] = tolerance
    return extent


def _source_fields(row: dict[str, Any], form: Form, own: dict[str, Any]) -> dict[str, Any]:
    """The source's other fields: its own `id` as `source_id`, its own form of the answer as `source_answer`.

    Values that JSON cannot represent (images, bytes) are left out; dates become texts.
    """
    fields = {}
    for name, cell in row.items():
        if name in (form.question, form.unit, form.tolerance, *form.options) or cell == own["problem"]:
            continue
        if name in own or name in (form.answer, SCORER):
            if cell == own["answer"]:
                continue
            name = f"source_{name}" if name in own or name == SCORER else name
        try:
            fields[name] = json.loads(json.dumps(cell, allow_nan=False, default=_dates))
        except (TypeError, ValueError):
            continue
    return fields


def _dates(cell: Any) -> str:
    if isinstance(cell, date | Decimal):
        return str(cell)
    raise TypeError


def _for_training(rows: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """The rows as OpenRLHF's --eval.dataset takes them, with the column names of the training set."""
    judged_otherwise = any(SCORER in row for row in rows)  # then every row names its scorer: all have the same columns
    for row in rows:
        yield {
            **{"id": row["id"], "input": row["problem"], "label": row["answer"], "datasource": row["datasource"]},
            **({SCORER: row.get(SCORER, MATH)} if judged_otherwise else {}),
        }


def _report(benchmark: PreparedBenchmark) -> dict[str, Any]:
    content = benchmark.content_sha256
    shuffled = any(form.options for form in benchmark.source.forms)
    return {
        "questions": len(benchmark.rows),
        "scorer": benchmark.source.answer,
        "content_sha256": content,
        "known_as": benchmark.source.known.get(content),
        "with_unit": sum("unit" in row for row in benchmark.rows),
        "with_tolerance": sum("tolerance" in row for row in benchmark.rows),
        "repeated": len(benchmark.rows) - len({row["problem"] for row in benchmark.rows}),
        "rewritten_golds": [dict(zip(("id", "from", "to"), change, strict=True)) for change in benchmark.rewritten],
        **({"options_shuffled_by": SEED} if shuffled else {}),
    }


def _manifest(entries: dict[str, Entry]) -> dict[str, Any]:
    """The manifest, without date and path: the same input gives the same manifest."""
    return {
        "made_by": "data/prepare_benchmarks.py",
        "sources": {
            name: entry.origin | {"content_sha256": entry.report["content_sha256"]} for name, entry in entries.items()
        },
        "versions": cli.versions(),
    }


def _print_notes(report: dict[str, Any], known: dict[str, Source], options: argparse.Namespace) -> None:
    for name, found in report["benchmarks"].items():
        if name in known and known[name].known and not found["known_as"]:
            print(
                f"note: {name}: this copy's content is none of those that {sources.BENCHMARKS.name} knows",
                file=sys.stderr,
            )
    where = "no file for it in --input-dir" if options.input_dir else "not on the hub, pass its file by --input-dir"
    for name in report["absent"]:
        print(f"note: {name}: {where}, left out", file=sys.stderr)


def _print_summary(report: dict[str, Any], folder: Path) -> None:
    for name, found in report["benchmarks"].items():
        rewritten = len(found["rewritten_golds"])
        print(
            f"{name:<16}{found['questions']:>6} questions, {rewritten:>4} golds rewritten   {folder / f'{name}.jsonl'}"
        )
    print(folder / EVAL_ALL)


def _on_request(source: Source) -> str:
    """The mark of a benchmark that is prepared by its name alone."""
    return f" (by name alone; {source.license})" if source.on_request else ""


def _parser() -> argparse.ArgumentParser:
    known = sources.load(sources.BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare_benchmarks",
        description="Make the benchmark files that evaluation and decontamination read, with every gold verified.",
        epilog="\n".join(
            [
                "benchmarks (your own: add it to data/benchmarks.yaml):",
                *(f"  {name:<15}{source.about}{_on_request(source)}" for name, source in known.items()),
                "",
                "examples:",
                "  python -m data.prepare_benchmarks --output-dir prepared/benchmarks",
                "  python -m data.prepare_benchmarks --output-dir prepared/benchmarks --input-dir downloaded --only aime24,math500",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output-dir", required=True, type=Path, metavar="DIR",
        help=f"folder for <benchmark>.jsonl, {EVAL_ALL}, report.json and manifest.json")  # fmt: skip
    add(
        "--only",
        default="",
        metavar="LIST",
        help="these benchmarks, separated by commas (default: all that are not marked)",
    )
    add("--input-dir", type=Path, metavar="DIR",
        help="read <benchmark>.jsonl, .parquet, .csv or <benchmark>__<anything>.jsonl from here instead of the hub; "
        "what is not there is left out, unless --only asks for it")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
