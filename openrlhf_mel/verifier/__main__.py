"""Judge a file of responses: `python -m openrlhf_mel.verifier --input FILE.jsonl --output FILE.jsonl`."""

import argparse
import collections
import json
import math
import os
import sys
import time
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import (
    EXTRACTIONS,
    SCORER,
    STATUSES,
    Extraction,
    Reference,
    Verifier,
    VerifierError,
    check_named_by_data,
)

_BATCH = 2_000
_PROGRESS_EVERY_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code: 0; 2 for bad input; 1 if no worker can be started, or a disk fails."""
    options = _options(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (VerifierError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m openrlhf_mel.verifier",
        description="Judge each row's `response` against its `answer`; adds `correct`, `status` and `extracted`.",
    )
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help="JSON lines with `response`, `answer` and, where a row has one, `scorer` and `question`",
    )
    parser.add_argument("--output", type=Path, required=True, help="the same rows with the verdicts")
    parser.add_argument("--workers", type=int, default=None, help="worker processes (default: the cores, at most 4)")
    parser.add_argument("--extraction", choices=EXTRACTIONS, default="anchored", help="default: anchored")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for one answer (default: 5)")
    parser.add_argument(
        "--scorers",
        type=lambda text: text.split(","),
        default=[],
        metavar="LIST",
        help="your own functions that rows may name as their `scorer` (package.module:function, separated by commas)",
    )
    options = parser.parse_args(arguments)
    if not 0 < options.timeout < math.inf:
        parser.error(f"--timeout {options.timeout:g}: expected a number of seconds above 0")
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers {options.workers}: expected at least 1")
    return options


def _run(options: argparse.Namespace) -> int:
    if not options.input.is_file():
        raise UserError(f"--input: no file {options.input}; expected a file of JSON lines")
    if not options.output.parent.is_dir():
        raise UserError(f"--output: no folder {options.output.parent}; make it first")
    counts: collections.Counter[str] = collections.Counter()
    aside = options.output.with_name(f"{options.output.name}.{os.getpid()}.partial")
    started = time.monotonic()
    try:
        with (
            Verifier(workers=options.workers, timeout_s=options.timeout) as verifier,
            options.input.open(encoding="utf-8") as lines,
            aside.open("w", encoding="utf-8") as out,
        ):
            rows = _rows(options.input, lines, options.scorers)
            _judge_all(rows, verifier, options.extraction, out, counts)
        os.replace(aside, options.output)
    finally:
        aside.unlink(missing_ok=True)
    _print_summary(counts, time.monotonic() - started, options.output)
    return 0


def _judge_all(
    rows: Iterator[dict[str, Any]],
    verifier: Verifier,
    extraction: Extraction,
    out: TextIO,
    counts: collections.Counter[str],
) -> None:
    reported = started = time.monotonic()
    while batch := list(islice(rows, _BATCH)):
        verdicts = verifier.verify_many([(row["response"], _reference(row)) for row in batch], extraction)
        for row, verdict in zip(batch, verdicts, strict=True):
            counts[verdict.status] += 1
            row |= {"correct": verdict.correct, "status": verdict.status, "extracted": verdict.extracted}
            out.write(json.dumps(row, ensure_ascii=True) + "\n")
        now = time.monotonic()
        if now - reported > _PROGRESS_EVERY_S:
            done = counts.total()
            print(f"{done:,} rows, {done / (now - started):,.0f} rows/s", file=sys.stderr, flush=True)
            reported = now


def _reference(row: dict[str, Any]) -> str:
    """The row's answer, with its scorer where it names one."""
    answer: str = row["answer"]  # or what else the row has there: the verifier says so
    if row.get(SCORER) is None or not isinstance(answer, str):
        return answer
    return Reference(answer, row[SCORER], row.get("question") or "")


def _rows(path: Path, lines: TextIO, allowed: Collection[str]) -> Iterator[dict[str, Any]]:
    try:
        for number, line in enumerate(lines, start=1):
            line = line.lstrip("\ufeff")  # a byte order mark; also within the file where files were joined
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number}: expected a JSON object, found {line[:60]!r} ({error})"
                ) from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object, found {line[:60]!r}")
            missing = [key for key in ("response", "answer") if key not in row]
            if missing:
                found = ", ".join(list(row)[:10]) or "none"
                raise UserError(f"{path}, line {number}: no `{missing[0]}`; found the keys {found}: rename one of them")
            _check_scorer(f"{path}, line {number}", row, allowed)
            yield row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text ({error})") from None


def _check_scorer(place: str, row: dict[str, Any], allowed: Collection[str]) -> None:
    """Raises UserError where the row's scorer is unknown or not allowed, or its question is no text."""
    if (scorer := row.get(SCORER)) is None:
        return
    try:
        check_named_by_data(scorer, scorer in allowed, f"--scorers {scorer}")
    except UserError as error:
        raise UserError(f"{place}: `{SCORER}`: {error}") from None
    if not isinstance(row.get("question") or "", str):
        raise UserError(f"{place}: `question`: found {row['question']!r:.60}, expected a text")


def _print_summary(counts: collections.Counter[str], seconds: float, output: Path) -> None:
    total = counts.total()
    shares = "  ".join(f"{status} {counts[status]:,}" for status in STATUSES)
    share = f" ({counts['correct'] / total:.1%} correct)" if total else ""
    print(f"{total:,} rows{share}: {shares}")
    print(f"{seconds:.1f} s, {total / max(seconds, 1e-9):,.0f} rows/s -> {output}")


if __name__ == "__main__":
    sys.exit(main())
