"""The benchmarks of an output folder: those of this run, and those that an earlier one left there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.source_files import JsonLines
from toolkit.outputs import MANIFEST, REPORT


@dataclass(frozen=True)
class Entry:
    """A benchmark of the output folder, of this run or of an earlier one."""

    rows: list[dict[str, Any]]
    report: dict[str, Any]
    origin: dict[str, Any]


def earlier(folder: Path, now: Iterable[str]) -> dict[str, Entry]:
    """The benchmarks that an earlier run wrote to `folder`, unchanged, except those of `now`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        origins, hashes, reports = manifest["sources"], manifest["outputs"], report["benchmarks"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    found = {}
    for name in origins.keys() - set(now):
        path = folder / f"{name}.jsonl"
        if path.is_file():
            rows = JsonLines(path)
            own = [row for _, row in rows.records()]
            if rows.origin["sha256"] == hashes.get(path.name):
                found[name] = Entry(own, reports[name], origins[name])
    return found


def in_order(entries: dict[str, Entry], known: Iterable[str]) -> dict[str, Entry]:
    """Those that are known in their order, then the others by name."""
    order = list(known)
    return dict(
        sorted(entries.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))
    )
