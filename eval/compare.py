"""`python -m eval.compare BASELINE OTHER [OTHER ...]`: paired comparison of evaluations.

The first folder is the baseline; each other one is compared with it (`paired`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.paired import compare, load
from openrlhf_mel.disk import write_json
from openrlhf_mel.errors import UserError
from toolkit.cli import run


def table(found: Mapping[str, Any]) -> str:
    """A comparison as Markdown, values in percent, differences in points."""
    lines = [f"{found['other']} against the baseline {found['baseline']}", ""]
    if found["n"]:
        most = Counter(count for side in found["samples"].values() for count in side.values() if count)
        drawn = ", ".join(map(str, sorted(most)))
        n = found["n"]
        named = ", ".join(f"{name} {count}" for name, count in n.items()) if isinstance(n, dict) else n
        lines += [f"n = {named}, the fewest samples a question of both (drawn: {drawn})", ""]
    head = "benchmark", "metric", "questions", "baseline", "other", "difference [95%]", "p", "won", "lost"
    lines += [_line(head), "|" + "---|" * len(head)]
    notes: list[str] = []
    sections = found["benchmarks"] | {"all questions": found["overall"], "average of benchmarks": found["average"]}
    for name, section in sections.items():
        for metric, row in section.items():
            mark = ""
            if note := row["ci95_note"]:
                if note not in notes:
                    notes.append(note)
                mark = f" ({notes.index(note) + 1})"
            low, high = row["ci95"]
            counts = (side if isinstance(side, int) else len(side) for side in (row["won"], row["lost"]))
            between = f"{100 * row['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]{mark}"
            values = (f"{100 * row[side]:.2f}" for side in ("baseline", "other"))
            lines.append(_line((name, metric, row["questions"], *values, between, f"{row['p_value']:.4f}", *counts)))
    lines += ["", *(f"({place}) {note}" for place, note in enumerate(notes, start=1))]
    if differing := found["settings_that_differ"]:
        lines.append(f"Settings that differ: {'; '.join(differing)}")
    lines.append("p: two-sided, from sign flips of the questions' differences; not corrected for several comparisons.")
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _work(options: argparse.Namespace) -> None:
    output = options.output
    if len(options.folders) < 2:
        raise UserError(f"found the one folder {options.folders[0]}, expected a baseline and at least one other")
    if output and (output.is_dir() or not output.parent.is_dir()):
        raise UserError(f"--output {output}: expected a file in a folder that is there")
    baseline, *others = map(load, options.folders)
    found = [compare(baseline, other) for other in others]
    for comparison in found:
        for warning in comparison["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
    print("\n\n".join(map(table, found)))
    if output:
        write_json(output, {"comparisons": found})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description="Compare evaluations question by question; the first folder is the baseline.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT", help="evaluations' folders, the baseline first")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all of it, with the questions' ids")
    options = parser.parse_args(arguments)
    return run(lambda: _work(options))


if __name__ == "__main__":
    sys.exit(main())
