"""The samples of an evaluation on disk: `samples/<benchmark>.jsonl`, one line per sample, appended whole.

A kill loses at most the line that was being written; opening the file again cuts off the rest of that line.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval import seed_folders
from eval.messages import Question, Request
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import MATH, STATUSES
from toolkit.outputs import json_lines, write_lines

SAMPLES, QUESTIONS = "samples", "questions"
SETTINGS, METRICS, SUMMARY = "settings.json", "metrics.json", "summary.md"
EXTENDED = "extended.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """A graded response, as in its line.

    Attributes:
        status, extracted: the anchored verdict, and the answer that it judged.
        lenient_status, lenient_extracted: the same under lenient extraction.
    """

    question: str
    sample: int
    greedy: bool
    seed: int
    prompt_sha256: str
    response: str
    finish_reason: str
    prompt_tokens: int | None
    tokens: int | None
    status: str
    extracted: str | None
    lenient_status: str
    lenient_extracted: str | None

    @property
    def key(self) -> tuple[str, int, bool]:
        """The key of question and sample."""
        return self.question, self.sample, self.greedy

    @property
    def thought(self) -> str | None:
        """The thinking that a server gave apart from the response, if any."""
        return None


@dataclass(frozen=True, slots=True)
class ReasonedSample(Sample):
    """A sample whose line has one more field.

    Attributes:
        reasoning: the thinking that a server gave apart from the response; it is never graded.
    """

    reasoning: str

    @property
    def thought(self) -> str | None:
        """See `Sample`."""
        return self.reasoning


def request_key(request: Request) -> tuple[str, int, bool]:
    """The key that the sample of `request` will have."""
    return request.question, request.sample, request.greedy


class Store:
    """An evaluation's folder, locked by one process at a time.

    Raises:
        UserError: another process has locked it, or one of its lines cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._made = not folder.exists()
        try:
            (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
            (folder / QUESTIONS).mkdir(exist_ok=True)
            self._lock_file = open(folder / ".lock", "w")  # noqa: SIM115 - held until close()
        except OSError as error:
            raise UserError(f"--output-dir {folder}: {error.strerror}: {error.filename}") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise UserError(f"--output-dir {folder}: another process is evaluating into it; choose another") from None
        except OSError:
            pass  # a file system without locks
        self._files: dict[str, int] = {}
        self._writing = threading.Lock()

    def append(self, benchmark: str, samples: Iterable[Sample]) -> None:
        """Append whole lines. If the disk fails, none of them is kept."""
        data = "".join(json_lines(map(asdict, samples))).encode()
        with self._writing:
            if self._lock_file.closed:
                raise ValueError(f"{self.folder}: let go of")  # a thread that outlived an interrupt
            file = self._files.get(benchmark)
            if file is None:
                file = self._files[benchmark] = self._open(benchmark)
            before = os.fstat(file).st_size
            try:
                if os.write(file, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                os.ftruncate(file, before)
                raise OSError(error.errno, error.strerror, str(self._path(benchmark))) from None

    def samples(self, benchmark: str) -> Iterator[Sample]:
        """The existing samples."""
        return read_samples(self._path(benchmark))

    def has_samples(self) -> bool:
        """Whether the folder has samples."""
        return any(path.stat().st_size for path in (self.folder / SAMPLES).glob("*.jsonl"))

    def replace(self, benchmark: str, samples: Iterable[Sample]) -> None:
        """Replace all samples atomically."""
        with self._writing:
            if benchmark in self._files:
                os.close(self._files.pop(benchmark))
            write_lines(self._path(benchmark), json_lines(map(asdict, samples)))

    def write_questions(self, benchmark: str, questions: Iterable[Question]) -> None:
        """Write the questions next to their samples, so that the folder is self-contained."""
        unsaid = {"unit": None, "tolerance": None, "scorer": MATH}
        rows = (
            {k: v for k, v in asdict(q).items() if k != "benchmark" and (k not in unsaid or v != unsaid[k])}
            for q in questions
        )
        write_lines(self.folder / QUESTIONS / f"{benchmark}.jsonl", json_lines(rows))

    def flush(self) -> None:
        """Flush written lines to the disk."""
        with self._writing:
            for file in self._files.values():
                os.fsync(file)

    def close(self) -> None:
        """Unlock the folder; remove it if a refused command has created it."""
        with contextlib.suppress(OSError):
            self.flush()
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        if not (self.folder / SETTINGS).exists():
            with contextlib.suppress(OSError):  # not empty
                for part in (SAMPLES, QUESTIONS):
                    (self.folder / part).rmdir()
                (self.folder / ".lock").unlink()
                if self._made:
                    self.folder.rmdir()
        self._lock_file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, benchmark: str) -> Path:
        return self.folder / SAMPLES / f"{benchmark}.jsonl"

    def _open(self, benchmark: str) -> int:
        path = self._path(benchmark)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        os.ftruncate(file, _whole_lines(path))
        return file


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a file without a truncated last line; none if the file does not exist."""
    for number, row in _rows(path):
        try:
            sample = (ReasonedSample if "reasoning" in row else Sample)(**row)
        except TypeError as error:
            raise UserError(f"{path}, line {number}: not a sample of this version ({error})") from None
        if damaged := _damaged(sample):
            raise UserError(
                f"{path}, line {number}: {damaged}: found {getattr(sample, damaged)!r:.60}; remove that line to draw it again"
            )
        yield sample


def _damaged(sample: Sample) -> str | None:
    """The first field of a wrong type, or None."""
    kinds = {"question": str, "sample": int, "greedy": bool, "seed": int, "response": str, "finish_reason": str}
    optional = {"extracted": str, "lenient_extracted": str, "prompt_tokens": int, "tokens": int}
    for name, kind in (kinds | optional).items():
        value = getattr(sample, name)
        if not isinstance(value, kind) and not (name in optional and value is None):
            return name
    if isinstance(sample, ReasonedSample) and not isinstance(sample.reasoning, str):
        return "reasoning"
    return next((name for name in ("status", "lenient_status") if getattr(sample, name) not in STATUSES), None)


def read_questions(folder: Path, benchmark: str) -> list[Question]:
    """The questions of `benchmark` in an evaluation's folder, in order."""
    path = folder / QUESTIONS / f"{benchmark}.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an evaluation's folder (python -m eval.run makes one)")
    questions = []
    for number, row in _rows(path):
        try:
            questions.append(Question(benchmark=benchmark, **row))
            if not all(isinstance(row.get(name, ""), str) for name in ("id", "problem", "answer", "scorer")):
                raise TypeError("id, problem, answer and scorer have to be texts")
        except TypeError as error:
            raise UserError(f"{path}, line {number}: not a question of this version ({error})") from None
    return questions


def evaluated(folder: Path) -> list[str]:
    """The benchmarks of an evaluation's folder. Raises UserError when there is none."""
    names = sorted(path.stem for path in (folder / QUESTIONS).glob("*.jsonl"))
    if not names:
        raise UserError(f"{folder}: no evaluation in this folder; expected {QUESTIONS}/<benchmark>.jsonl in it")
    return names


def evaluations(folder: Path) -> list[Path]:
    """The folder itself, or those of the checkpoints of a `--run` or of `--seeds` in it. Raises UserError when there is none."""
    if (folder / QUESTIONS).is_dir():
        return [folder]
    below = [path for own in (folder, *seed_folders.existing(folder)) for path in sorted(own.glob(f"*/{QUESTIONS}"))]
    found = [path.parent for path in below if path.is_dir()]
    if not found:
        raise UserError(f"{folder}: no evaluation in this folder; expected one that eval.run wrote")
    return found


def single(folder: Path) -> Path:
    """The only evaluation of a folder. Raises UserError naming the checkpoints when there are several."""
    found = evaluations(folder)
    if len(found) > 1:
        raise UserError(f"{folder}: holds several checkpoints; name one of {', '.join(map(str, found))}")
    return found[0]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of an evaluation's folder. Raises UserError when it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a file that eval.run wrote") from None
    return content


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number}: not JSON ({error}); remove that line to draw it again"
                ) from None


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        while size:
            start = max(0, size - 65536)
            file.seek(start)
            end = file.read(size - start).rfind(b"\n")
            if end >= 0:
                return start + end + 1
            size = start
    return 0
