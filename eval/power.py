"""`python -m eval.power --pilot OUT --difference POINTS`: how many samples a question a comparison needs (docs/evaluation.md)."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.pilots import read_pilots
from eval.sample_size import detectable, samples_needed, variance_parts
from eval.variances import Variances, not_negative
from openrlhf_mel.disk import write_json
from openrlhf_mel.errors import UserError
from toolkit import cli

CORRELATION = 0.9
LEAST_DIFFERENCE = 0.001  # points: no evaluation has the samples for a smaller one
SHOWN = (8, 16, 32, 64)  # samples a question for which the table has the detectable difference
AVERAGE = "average"


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command says, as it is written to JSON: differences in points, variances in squared points.

    Raises:
        UserError: a flag out of range, or a pilot that shows no variance or cannot be read.
    """
    _check(options)
    pilots = read_pilots(options.pilot, options.benchmark)
    correlation = None
    if len(options.pilot) == 1:
        correlation = CORRELATION if options.correlation is None else options.correlation
    parts = {
        name: Variances.of_two(*both) if correlation is None else Variances.of_one(both[0], correlation)
        for name, both in pilots.correct.items()
    }
    if not any(part.within for part in parts.values()):
        raise UserError(
            f"--pilot {options.pilot[0]}: the samples of each question are all right or all wrong, which shows no variance; "
            "evaluate other questions, or more samples"
        )
    sizes = {name: [matrix.shape[1] for matrix in both] for name, both in pilots.correct.items()}
    rows = {name: _row(not_negative([part]), options) | {"n": sizes[name]} for name, part in parts.items()}
    every = not_negative(list(parts.values()))
    alike = samples_needed([replace(part, between=0.0) for part in every], options.difference / 100, options.power)
    return {
        "pilots": list(map(str, options.pilot)),
        "difference": options.difference,
        "power": options.power,
        "max_n": options.max_n,
        "correlation": correlation,
        "benchmarks": rows,
        AVERAGE: _row(every, options) | {"n": [min(own) for own in zip(*sizes.values(), strict=True)]},
        "n_needed_if_alike": alike,
        "n_of_seed": pilots.n_of_seed,
        "warnings": pilots.warnings,
    }


def table(found: Mapping[str, Any]) -> str:
    """The plan as Markdown, and below it what it says."""
    head = "benchmark", "questions", "n of the pilot", "within", "between", "n needed"
    lines = [_line((*head, *(f"n = {n}" for n in SHOWN))), "|" + "---|" * (len(head) + len(SHOWN))]
    rows = found["benchmarks"] | ({AVERAGE: found[AVERAGE]} if len(found["benchmarks"]) > 1 else {})
    for name, row in rows.items():
        n = ", ".join(map(str, dict.fromkeys(row["n"])))
        cells = [name, row["questions"], n, *(f"{row[part]:.3f}" for part in ("within", "between"))]
        if row["within"]:
            cells += [_needed(row["n_needed"], found["max_n"]), *(f"{row['detectable'][str(n)]:.2f}" for n in SHOWN)]
        else:  # its samples say nothing about how n helps
            cells += ["-"] * (1 + len(SHOWN))
        lines.append(_line(cells))
    lines += [
        "",
        f"In points: the difference of Avg@n that each n finds with {found['power']:.0%} power, in eval.compare's test (5%, "
        "two-sided). Its variance, in squared points, is within / n + between.",
        _verdict(found),
    ]
    if found["correlation"] is not None:
        lines.append(
            "One pilot does not show how the true differences vary over questions. Assumed: the two models' accuracies "
            f"correlate by {found['correlation']:g} over questions (--correlation). A pilot of each model shows it: --pilot A "
            f"B. Were the difference the same on each question, n = {found['n_needed_if_alike']} would be enough, and no less."
        )
    return "\n".join(lines)


def _verdict(found: Mapping[str, Any]) -> str:
    row, wanted = found[AVERAGE], f"A difference of {found['difference']:g} points"
    where = "the average" if len(found["benchmarks"]) > 1 else next(iter(found["benchmarks"]))
    if row["n_needed"] is None:
        return (
            f"{wanted} on {where} is found by no n: the differences between questions hide all below {row['floor']:.2f} points. "
            "More questions or benchmarks would help, or a larger difference."
        )
    n, of_seed = row["n_needed"], found["n_of_seed"]
    limit = f" That is above --max-n {found['max_n']}." if n > found["max_n"] else ""
    return (
        f"{wanted} on {where} needs n = {n} samples a question of each model, or {-(-n // of_seed)} seeds of the pilot's "
        f"n = {of_seed}.{limit}"
    )


def _row(parts: Sequence[Variances], options: argparse.Namespace) -> dict[str, Any]:
    within, between = variance_parts(parts)
    return {
        "questions": sum(part.questions for part in parts),
        "within": 1e4 * within,
        "between": 1e4 * between,
        "n_needed": samples_needed(parts, options.difference / 100, options.power),
        "detectable": {str(n): 100 * detectable(parts, n, options.power) for n in SHOWN},
        "floor": 100 * detectable(parts, math.inf, options.power),
    }


def _needed(n: int | None, most: int) -> str:
    return "none" if n is None else f"above {most}" if n > most else str(n)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers out of range, and flags that do not go together."""
    for flag, valid, expected in (
        (
            "difference",
            LEAST_DIFFERENCE <= options.difference <= 100,
            f"a number of points from {LEAST_DIFFERENCE:g} to 100",
        ),
        ("power", 0.05 < options.power < 1, "a chance above 0.05 (the test's level) and below 1"),
        ("max_n", options.max_n >= 1, "at least 1"),
        ("correlation", options.correlation is None or -1 <= options.correlation <= 1, "a number from -1 to 1"),
    ):
        if not valid:
            raise UserError(f"--{flag.replace('_', '-')} {getattr(options, flag):g}: expected {expected}")
    folders = [folder.resolve() for folder in options.pilot]
    if len(folders) > 2 or len(set(folders)) < len(folders):
        found = " ".join(map(str, options.pilot))
        raise UserError(f"--pilot {found}: expected one evaluation, or one of each of the two models")
    if options.correlation is not None and len(folders) == 2:
        raise UserError("--correlation: is assumed with one pilot alone; two show the differences themselves")
    output = options.output
    if output and (output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"--output {output}: expected a file in a folder that is there")


def _work(options: argparse.Namespace) -> str:
    found = plan(options)
    for warning in found["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if options.output:
        write_json(options.output, found)
    return table(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, also when no n is enough; 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.power",
        description="From a pilot's own variances: the samples a question with which eval.compare finds a difference of Avg@n.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--pilot", type=Path, nargs="+", required=True, metavar="OUT",
        help="an evaluation's folder with n of at least 2; better two, of both models")  # fmt: skip
    add(
        "--difference",
        type=float,
        required=True,
        metavar="POINTS",
        help=f"the true difference to find, in percentage points (at least {LEAST_DIFFERENCE:g})",
    )
    add("--power", type=float, default=0.8, metavar="P", help="the chance of finding it (default: 0.8)")
    add("--benchmark", metavar="NAME", help="plan for this one (default: for the average of all)")
    add("--correlation", type=float, metavar="R",
        help=f"with one pilot: of the two models' accuracies over questions (default: {CORRELATION})")  # fmt: skip
    add("--max-n", type=int, default=1024, metavar="N", help="the most samples a question to draw (default: 1024)")
    add("--output", type=Path, metavar="FILE.json", help="write all of it")
    options = parser.parse_args(arguments)
    return cli.run(lambda: _work(options), print)


if __name__ == "__main__":
    sys.exit(main())
