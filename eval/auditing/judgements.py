"""A person's verdicts on disk: `audit.jsonl`, one line per verdict, appended whole; the last one on a response counts."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from eval.auditing.texts import Audited
from openrlhf_mel.disk import json_line
from openrlhf_mel.errors import UserError

JUDGEMENTS = "audit.jsonl"
RIGHT, WRONG, UNSURE = "right", "wrong", "unsure"
_CHOICES = (RIGHT, WRONG, UNSURE)


@dataclass(frozen=True)
class Judgement:
    """A verdict of a person on a response.

    Attributes:
        key, sha256: the response (`Audited`).
        verdict: `right`, `wrong` or `unsure`.
        revealed: whether the verifier's verdict was shown before.
        time: when it was given.

    Raises:
        ValueError: a field of another kind, or another verdict.
    """

    key: str
    sha256: str
    verdict: str
    revealed: bool
    time: str

    def __post_init__(self) -> None:
        for name in ("key", "sha256", "verdict", "time"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r:.60}, expected a text")
        if self.verdict not in _CHOICES:
            raise ValueError(f"the verdict is {self.verdict!r:.60}, expected one of {', '.join(_CHOICES)}")
        if not isinstance(self.revealed, bool):
            raise ValueError(f"revealed is {self.revealed!r:.60}, expected true or false")


def read_judgements(path: Path) -> list[Judgement]:
    """Every verdict, in order; none if there is no file. A last line that a kill cut short is left out.

    Raises:
        UserError: a line that is no verdict.
    """
    data = _read(path)
    return [_parsed(path, number, line) for number, line in enumerate(data[: _whole(data)].splitlines(), start=1)]


def current(path: Path, judgements: Sequence[Judgement], responses: Iterable[Audited]) -> dict[str, Judgement]:
    """The last verdict on each of `responses` that has one, by the response's key. Only these are hashed.

    Raises:
        UserError: a response, its question or its reference answer is not the one that was judged.
    """
    judged = {judgement.key for judgement in judgements}
    fingerprints = {audited.key: audited.sha256 for audited in responses if audited.key in judged}
    found: dict[str, Judgement] = {}
    for judgement in judgements:
        if fingerprints.get(judgement.key, judgement.sha256) != judgement.sha256:
            raise UserError(
                f"{path}: {judgement.key} has changed since it was judged (its question, reference answer or response); "
                "move that file away to begin anew"
            )
        if judgement.key in fingerprints:
            found[judgement.key] = judgement
    return found


class JudgementFile:
    """`audit.jsonl`, open for one process at a time. Opening it cuts off a last line that a kill cut short.

    Raises:
        UserError: another process has it open, or it cannot be written.
    """

    def __init__(self, path: Path):
        self.path, self._writing = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name another folder with --output") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise UserError(f"{path}: another process has this audit open; end that one first") from None
        except OSError:
            pass  # a file system without locks
        os.ftruncate(self._file, _whole(_read(path)))

    def append(self, judgement: Judgement) -> None:
        """Append a line and flush it to the disk. Threads may call it at the same time.

        Raises:
            OSError: the disk failed, and nothing of the line is kept; or the file is closed.
        """
        data = json_line(asdict(judgement)).encode()
        with self._writing:
            before = os.fstat(self._file).st_size
            try:
                if os.write(self._file, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, before)
                raise

    def close(self) -> None:
        """Let go of the file, after a line that is being written."""
        with self._writing:
            os.close(self._file)
            self._file = -1  # its number may soon be another file's

    def __enter__(self) -> JudgementFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _whole(data: bytes) -> int:
    """Bytes up to the end of the last whole line."""
    return data.rfind(b"\n") + 1


def _parsed(path: Path, number: int, line: bytes) -> Judgement:
    try:
        row: Mapping[str, Any] = json.loads(line)
        names = {field.name for field in fields(Judgement)}
        if not isinstance(row, dict) or row.keys() != names:
            raise ValueError(f"expected an object of {', '.join(sorted(names))}")
        return Judgement(**row)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not a verdict ({error}); remove that line") from None
