"""Which settings an evaluation's folder records: those of a command, if they may go with what is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from eval import thinking_end
from eval.grading import judged_as_thinking
from eval.identity import differences, with_scorers
from eval.store import SAMPLES, SETTINGS, Store, read_json
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH


def settled(store: Store, chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings to record: the chosen ones, with the benchmarks of earlier commands. Writes nothing.

    Raises:
        UserError: the folder holds samples of other settings.
    """
    folder, path = store.folder, store.folder / SETTINGS
    if not store.has_samples():
        return chosen
    if not path.exists():
        raise UserError(f"--output-dir {folder}: holds samples without {SETTINGS}; choose another folder")
    old = thinking_end.with_end(read_json(path), chosen)
    if changed := differences(old, chosen):
        lines = "\n".join(f"  {line}" for line in changed)
        raise UserError(
            f"--output-dir {folder}: holds samples of other settings; choose another folder. What changed:\n{lines}"
        )
    earlier = with_scorers(old)
    chosen = chosen | {key: earlier[key] | chosen[key] for key in ("data_sha256", "scorers")}
    return chosen | {"sampling": old["sampling"]} if "shortened_from" in old["sampling"] else chosen


def record(store: Store, chosen: dict[str, Any]) -> None:
    """Write what `settled` returned; samples from before end tags were recorded are judged with the end tag."""
    path, end = store.folder / SETTINGS, thinking_end.recorded_end(chosen)
    if end and store.has_samples():
        before = read_json(path)
        if thinking_end.with_end(before, chosen) is not before:
            _judge_as_thinking(store, chosen["scorers"], end)
    disk.write_json(path, chosen)


def recorded(folder: Path) -> dict[str, Any] | None:
    """The settings of the samples in a folder; None where it has no samples."""
    sized = any(path.stat().st_size for path in (folder / SAMPLES).glob("*.jsonl"))
    return read_json(folder / SETTINGS) if sized else None


def _judge_as_thinking(store: Store, scorers: dict[str, str], end: str) -> None:
    """Samples from before end tags were recorded are not mixed with others: they get the verdicts of these."""
    changed = 0
    for path in sorted((store.folder / SAMPLES).glob("*.jsonl")):
        old = list(store.samples(path.stem))
        new = [judged_as_thinking(sample, scorers.get(path.stem, MATH), end) for sample in old]
        if new != old:
            store.replace(path.stem, new)
            changed += sum(a != b for a, b in zip(new, old, strict=True))
    print(
        f"note: {store.folder}: its prompts open thinking that ends with {end}; {changed} earlier responses that do not end "
        "it have no answer now",
        file=sys.stderr,
    )
