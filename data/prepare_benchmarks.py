"""Prepare the benchmarks: python data/prepare_benchmarks.py --output-dir DIR [...] (see --help)."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import command, golds, sources
from data.inputs import Input, open_file, open_hub
from data.output import EVAL_ALL, REPORT, OutputFolder, json_lines, question_id
from data.preparation import content_sha256
from data.sources import Form, Source
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import check_golds

_ENDINGS = (".jsonl", ".parquet")
_NAMED = 5  # rows that a message names


@dataclass(frozen=True)
class Benchmark:
    """A prepared benchmark.

    Attributes:
        rows: what is written, in the source's order.
        rewritten: (id, the gold as published, the gold as written).
        origin: where the rows come from, for the manifest.
    """

    source: Source
    rows: list[dict[str, Any]]
    rewritten: list[tuple[str, str, str]]
    origin: dict[str, Any]

    @property
    def content_sha256(self) -> str:
        """Of the questions and answers, in whatever order."""
        return content_sha256((row["problem"], row["answer"]) for row in self.rows)


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    options = _parser().parse_args(arguments)
    return command.run(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    known = sources.load(sources.BENCHMARKS)
    asked = [name.strip() for name in options.only.split(",") if name.strip()]
    for name in asked:
        if name not in known:
            raise UserError(
                f"--only: found {name!r}, expected some of {', '.join(known)} (or add it to {sources.BENCHMARKS})"
            )
    if options.input_dir and not options.input_dir.is_dir():
        raise UserError(
            f"--input-dir {options.input_dir}: no such folder; expected one with <benchmark>.jsonl or .parquet"
        )
    wanted = {name: known[name] for name in (asked or known)}
    files = {name: _find(options.input_dir, name) for name in wanted} if options.input_dir else {}
    absent = [name for name, path in files.items() if path is None]
    if absent and (asked or len(absent) == len(files)):
        raise UserError(
            f"--input-dir {options.input_dir}: no file for {', '.join(absent)}; "
            "expected <benchmark>.jsonl, <benchmark>.parquet or <benchmark>__<anything>.jsonl"
        )
    with OutputFolder(options.output_dir) as output, command.progress("benchmarks", len(wanted), "benchmarks") as bar:
        prepared: list[Benchmark] = []
        for name, source in wanted.items():
            if name not in absent:
                rows = open_file(files[name], source.hub) if files else _from_hub(source)
                prepared.append(prepare(rows, source))
            bar.update()
        for benchmark in prepared:
            output.write(f"{benchmark.source.name}.jsonl", json_lines(benchmark.rows))
        output.write(EVAL_ALL, json_lines(_for_training(row) for benchmark in prepared for row in benchmark.rows))
        report = {"benchmarks": {b.source.name: _report(b) for b in prepared}, "absent": absent}
        output.write_json(REPORT, report)
        output.commit(_manifest(prepared))
    _print_summary(report, known, options.output_dir)


def prepare(rows: Input, source: Source) -> Benchmark:
    """Read a benchmark, write its golds in one way, and verify each against itself.

    Raises:
        UserError: a row cannot be used, or the number of questions is not the benchmark's.
    """
    form = source.form_for(rows.columns, rows.name)
    found: list[dict[str, Any]] = []
    places: list[str] = []
    rewritten: list[tuple[str, str, str]] = []
    ids: Counter[str] = Counter()
    for number, row in rows.records():
        place = rows.place(number)
        problem, gold = _question_and_gold(row, form, place)
        answer = golds.normalise(gold)
        identity = question_id(source.name, problem)
        ids[identity] += 1
        if ids[identity] > 1:
            identity += f"-{ids[identity]}"
        if answer != gold:
            rewritten.append((identity, gold, answer))
        own = {"id": identity, "problem": problem, "answer": answer, "datasource": source.name}
        found.append(own | _extent(row, form, place) | _source_fields(row, form, own))
        places.append(place)
    if source.questions and len(found) not in source.questions:
        expected = " or ".join(map(str, source.questions))
        raise UserError(
            f"{rows.name}: {source.name} has {expected} questions, found {len(found)}: another or a damaged file"
        )
    if problems := check_golds([row["answer"] for row in found]):
        named = "\n".join(f"  {places[i]}: {why}" for i, why in list(problems.items())[:_NAMED])
        raise UserError(
            f"{rows.name}: {len(problems)} reference answers cannot be verified; mend the file, or take these rows out:\n{named}"
        )
    return Benchmark(source, found, rewritten, rows.origin)


def _question_and_gold(row: dict[str, Any], form: Form, place: str) -> tuple[str, str]:
    for column in (form.question, form.answer):
        if column not in row:
            raise UserError(f"{place}: no column {column!r}; found {', '.join(list(row)[:12])}")
    problem = row[form.question]
    if not isinstance(problem, str) or not problem.strip():
        raise UserError(f"{place}: {form.question!r}: found {problem!r:.80}, expected the question's text")
    try:
        gold = golds.READERS[form.read](row[form.answer])
    except golds.WrongType as error:
        raise UserError(f"{place}: {form.answer!r}: {error}") from None
    if not gold.strip():
        raise UserError(f"{place}: {form.answer!r}: no answer (read as {form.read}); expected one in every row")
    return problem.strip(), gold


def _extent(row: dict[str, Any], form: Form, place: str) -> dict[str, Any]:
    """The unit that an answer may carry, and how far from it an answer may be, where the source says so."""
    extent: dict[str, Any] = {}
    if form.unit and row.get(form.unit):
        extent["unit"] = row[form.unit]
    if form.tolerance and row.get(form.tolerance):
        try:
            extent["tolerance"] = float(row[form.tolerance])
        except (TypeError, ValueError):
            raise UserError(
                f"{place}: {form.tolerance!r}: found {row[form.tolerance]!r:.60}, expected a number"
            ) from None
    return extent


def _source_fields(row: dict[str, Any], form: Form, own: dict[str, Any]) -> dict[str, Any]:
    """What else the source has: its own `id` as `source_id`, its way of writing the answer as `source_answer`."""
    fields = {}
    for name, value in row.items():
        if name in (form.question, form.unit, form.tolerance) or value == own["problem"]:
            continue
        if name in own or name == form.answer:
            if value == own["answer"]:
                continue
            name = f"source_{name}" if name in own else name
        fields[name] = value
    return fields


def _find(folder: Path, name: str) -> Path | None:
    for ending in _ENDINGS:
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    found = sorted(path for ending in _ENDINGS for path in folder.glob(f"{name}__*{ending}"))
    if len(found) > 1:
        raise UserError(
            f"--input-dir {folder}: several files for {name}: {', '.join(path.name for path in found)}; keep one"
        )
    return found[0] if found else None


def _from_hub(source: Source) -> Input:
    if source.hub is None:
        raise UserError(
            f"{source.name}: has no hub data set in {sources.BENCHMARKS.name}; pass its file by --input-dir"
        )
    ending = Path(source.hub.file).suffix
    return open_hub(
        source.hub, then=f"put the file as {source.name}{ending} into a folder, and pass --input-dir FOLDER"
    )


def _for_training(row: dict[str, Any]) -> dict[str, str]:
    """The row as OpenRLHF's --eval.dataset takes it, with the column names of the training set."""
    return {"id": row["id"], "input": row["problem"], "label": row["answer"], "datasource": row["datasource"]}


def _report(benchmark: Benchmark) -> dict[str, Any]:
    content = benchmark.content_sha256
    return {
        "questions": len(benchmark.rows),
        "content_sha256": content,
        "known_as": benchmark.source.known.get(content),
        "with_unit": sum("unit" in row for row in benchmark.rows),
        "with_tolerance": sum("tolerance" in row for row in benchmark.rows),
        "repeated": len(benchmark.rows) - len({row["problem"] for row in benchmark.rows}),
        "rewritten_golds": [dict(zip(("id", "from", "to"), change, strict=True)) for change in benchmark.rewritten],
    }


def _manifest(prepared: list[Benchmark]) -> dict[str, Any]:
    """No date and no path: the same input gives the same manifest."""
    return {
        "made_by": "data/prepare_benchmarks.py",
        "sources": {b.source.name: b.origin | {"content_sha256": b.content_sha256} for b in prepared},
        "versions": command.versions(),
    }


def _print_summary(report: dict[str, Any], known: dict[str, Source], folder: Path) -> None:
    for name, found in report["benchmarks"].items():
        rewritten = len(found["rewritten_golds"])
        print(
            f"{name:<16}{found['questions']:>6} questions, {rewritten:>4} golds rewritten   {folder / f'{name}.jsonl'}"
        )
        if known[name].known and not found["known_as"]:
            print(
                f"note: {name}: this copy's content is none of those that {sources.BENCHMARKS.name} knows",
                file=sys.stderr,
            )
    for name in report["absent"]:
        print(f"note: {name}: no file for it in --input-dir, left out", file=sys.stderr)
    print(folder / EVAL_ALL)


def _parser() -> argparse.ArgumentParser:
    known = sources.load(sources.BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python data/prepare_benchmarks.py",
        description="Make the benchmark files that evaluation and decontamination read, with every gold verified.",
        epilog="\n".join(
            [
                "benchmarks (your own: add it to eval/benchmarks.yaml):",
                *(f"  {name:<15}{source.about}" for name, source in known.items()),
                "",
                "examples:",
                "  python data/prepare_benchmarks.py --output-dir prepared/benchmarks",
                "  python data/prepare_benchmarks.py --output-dir prepared/benchmarks --input-dir downloaded --only aime24,math500",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output-dir", required=True, type=Path, metavar="DIR",
        help=f"folder for <benchmark>.jsonl, {EVAL_ALL}, report.json and manifest.json")  # fmt: skip
    add("--only", default="", metavar="LIST", help="these benchmarks, separated by commas (default: all)")
    add("--input-dir", type=Path, metavar="DIR",
        help="read <benchmark>.jsonl, .parquet or <benchmark>__<anything>.jsonl from here instead of the hub; "
        "what is not there is left out, unless --only asks for it")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
