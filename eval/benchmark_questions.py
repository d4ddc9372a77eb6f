"""The benchmarks' questions and their prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from data import sources
from data.rows import EVAL_ALL
from data.source_files import JsonLines
from eval.messages import Question
from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import DEFAULT_DIR, fill_question, question_of, read_question_template
from openrlhf_mel.verifier import MATH, SCORER, check_named_by_data, check_scorer
from toolkit.outputs import check_unchanged, recorded_hashes

DEFAULT = "default"
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Benchmark:
    """A prepared benchmark's questions (the first `--limit` ones), the fingerprint of its whole file, and its scorer's.

    Attributes:
        scorer: its name; of a user's own also the hash of its file, behind a `#`.
        size: questions of the whole file.
    """

    name: str
    questions: list[Question]
    sha256: str
    scorer: str = MATH
    size: int = 0


@dataclass(frozen=True)
class Template:
    """A question's prompt: a text with the place `{{question}}`."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The fingerprint of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def prompt(self, question: str) -> str:
        """The prompt as text; a chat model gets it as the user's message."""
        return fill_question(self.text, question)


def load_benchmarks(
    folder: Path, names: list[str], limit: int | None, scorers: Collection[str] = ()
) -> list[Benchmark]:
    """Read benchmarks that prepare_benchmarks.py wrote; `scorers` are the functions that they may name as their scorer.

    Raises:
        UserError: an unknown name (the message lists the known ones), a missing file, a file that was changed after its
            preparation, a row that is no question, or a scorer that is not allowed or cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"--data-dir {folder}: no such folder; python -m data.prepare_benchmarks --output-dir {folder}")
    known = list(sources.load(sources.BENCHMARKS))
    there = sorted(path.stem for path in folder.glob("*.jsonl") if path.name != EVAL_ALL)
    for name in names:
        if name not in there:
            if name in known:
                raise UserError(
                    f"--benchmarks: no {name}.jsonl in {folder}, which has {', '.join(there) or 'none'}; "
                    f"python -m data.prepare_benchmarks --only {name} --output-dir {folder} makes it"
                )
            raise UserError(
                f"--benchmarks: unknown benchmark {name!r}; known are {', '.join(dict.fromkeys([*known, *there]))}"
            )
    prepared = recorded_hashes(folder)
    return [_load(folder / f"{name}.jsonl", prepared, limit, scorers) for name in names]


def load_template(name: str, flag: str = "--template") -> Template:
    """A template by name: `default` (that of training), a file of eval/templates, or a path to a file or a folder.

    `flag` is named in messages.

    Raises:
        UserError: there is none, or it lacks the place `{{question}}`.
    """
    named = {path.stem: path for path in sorted(TEMPLATES.glob("*.txt"))} | {DEFAULT: DEFAULT_DIR / "question.txt"}
    path = named.get(name) or Path(name)
    if path.is_dir():
        path = path / "question.txt"
    if not path.is_file():
        raise UserError(
            f"{flag} {name}: no such template; expected {', '.join(sorted(named))}, a file, or a template folder"
        )
    return Template(name if name in named else path.name, read_question_template(path))


def _load(path: Path, prepared: dict[str, str], limit: int | None, allowed: Collection[str]) -> Benchmark:
    rows = JsonLines(path)
    # A training or validation set of prepare_train.py has other names for the same columns.
    problem, answer = ("input", "label") if "input" in rows.columns else ("problem", "answer")
    questions: list[Question] = []
    ids: set[str] = set()
    scorers: set[str] = set()
    for number, row in rows.records():
        for column in ("id", problem, answer):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise UserError(
                    f"{rows.place(number)}: {column!r}: found {row.get(column)!r:.60}, expected a text; "
                    "prepare the benchmark with data/prepare_benchmarks.py"
                )
        if question_of(row[problem]) != row[problem]:
            raise UserError(
                f"{rows.place(number)}: {problem!r}: found a conversation stored as text, {row[problem]!r:.60}, expected the "
                "question; prepare the benchmark with data/prepare_benchmarks.py"
            )
        if row["id"] in ids:
            raise UserError(f"{rows.place(number)}: the id {row['id']!r} stands twice")
        ids.add(row["id"])
        scorers.add(scorer := MATH if row.get(SCORER) is None else str(row[SCORER]))
        if len(scorers) > 1:
            raise UserError(
                f"{rows.place(number)}: {SCORER!r}: found {scorer!r}, expected one scorer in all rows; "
                "evaluate the rows of each scorer as a file of their own"
            )
        extent = row.get("unit"), row.get("tolerance")
        questions.append(Question(path.stem, row["id"], row[problem], row[answer], *extent, scorer))
    sha256 = rows.origin["sha256"]
    check_unchanged(path, sha256, prepared)
    scorer = identity_of_scorer(path, next(iter(scorers), MATH), allowed)
    return Benchmark(path.stem, questions[:limit], sha256, scorer, len(questions))


def identity_of_scorer(path: Path, name: str, allowed: Collection[str]) -> str:
    """The scorer's name, and of a user's own the hash of its file.

    Raises:
        UserError: naming `path`, where it is a function that is not `allowed`, or cannot be loaded.
    """
    try:
        check_named_by_data(name, name in allowed, f"--scorers {name}")
        own = check_scorer(name)
    except UserError as error:
        raise UserError(f"{path}: {SCORER!r}: {error}") from None
    return f"{name}#{own}" if own else name
