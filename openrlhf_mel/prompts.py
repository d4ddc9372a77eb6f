"""The three prompts, filled from text files that a user can swap. One definition for training, replay and evaluation.

A template is a text file with placeholders such as `{{question}}`. They are filled in one pass, so nothing in a value
(LaTeX is full of braces) is ever taken for a placeholder. A template's last line feed is ignored.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from openrlhf_mel.conversation import Unreadable, user_message
from openrlhf_mel.errors import UserError

DEFAULT_DIR = Path(__file__).with_name("templates")
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_PLACES = {
    "question.txt": ("question",),
    "analysis.txt": ("question", "incorrect", "correct"),
    "replay.txt": ("experience", "prompt"),
}
PARTS = ("bifurcation_point", "critique", "heuristic")


@dataclass(frozen=True)
class Templates:
    """The texts of one template folder.

    Attributes:
        texts: file name -> template.
        sections: heading that M must contain -> the part of M = (s*, C, H) under it (Eq. 5), in order.
        sha256: file name -> fingerprint of the file, for the manifest.
    """

    texts: dict[str, str]
    sections: dict[str, str]
    sha256: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Templates:
        """Read a folder (default: the package's own). Raises UserError naming the file at fault."""
        folder = Path(folder or DEFAULT_DIR)
        if not folder.is_dir():
            raise UserError(f"--mel.template_dir {folder}: no such folder")
        texts = {name: _read_template(folder / name, places) for name, places in _PLACES.items()}
        sections = _read_sections(folder / "sections.yaml")
        files = (*_PLACES, "sections.yaml")
        return cls(texts, sections, {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in files})

    def question(self, question: str) -> str:
        """The question's prompt, the same in training, replay and evaluation (paper 3.1)."""
        return fill_question(self.texts["question.txt"], question)

    def analysis(self, question: str, incorrect: str, correct: str) -> str:
        """The instruction I with x, y- and y+, from which the policy writes M (Eq. 2-5)."""
        return _fill(self.texts["analysis.txt"], question=question, incorrect=incorrect, correct=correct)

    def replay(self, prompt: str, experience: str) -> str:
        """The question's own prompt with M in front of it as reference information (Eq. 6)."""
        return _fill(self.texts["replay.txt"], prompt=prompt, experience=experience)


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt's text reaches the model: as it is, or as the user's turn of the tokenizer's chat template.

    A special token written out in a question, a response or an M (`<|im_end|>`) would be read as that token and could
    end the user's turn. So it is removed from the values that are filled in.
    """

    templates: Templates
    tokenizer: Any
    chat: bool = False
    input_template: str | None = None

    def question(self, question: str) -> str:
        """The question's prompt as sent to the engine. `input_template` is upstream's flag (`str.format`, one `{}`)."""
        return self._wrap(self._question_text(question))

    def analysis(self, question: str, incorrect: str, correct: str) -> str:
        """The analysis prompt as sent to the engine."""
        texts = (without_special_tokens(text, self.tokenizer) for text in (question, incorrect, correct))
        return self._wrap(self.templates.analysis(*texts))

    def replay(self, question: str, experience: str) -> str:
        """The replay prompt as sent to the engine: the question's own text with M in front."""
        experience = without_special_tokens(experience, self.tokenizer)
        return self._wrap(self.templates.replay(self._question_text(question), experience))

    def _question_text(self, question: str) -> str:
        question = without_special_tokens(question, self.tokenizer)
        return self.input_template.format(question) if self.input_template else self.templates.question(question)

    def _wrap(self, text: str) -> str:
        if not self.chat:
            return text
        wrapped: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return wrapped


def question_of(value: Any) -> str | None:
    """The bare question that a row holds: a text, or a conversation of one user message; None for anything else.

    The conversation may also be stored as text.
    """
    try:
        value = user_message(value)
    except Unreadable:
        return None
    return value if isinstance(value, str) and value.strip() else None


def without_special_tokens(text: str, tokenizer: Any) -> str:
    """The text without special tokens of the tokenizer that are written out in it."""
    before = None
    while before != text:  # removing one may form another
        before = text
        for token in tokenizer.all_special_tokens:
            text = text.replace(token, "")
    return text


def read_question_template(path: Path) -> str:
    """The text of one question template. Raises UserError naming the file at fault."""
    return _read_template(path, _PLACES["question.txt"])


def fill_question(template: str, question: str) -> str:
    """A question in its template: what `Templates.question` does, for a template on its own."""
    return _fill(template, question=question)


def _fill(template: str, **values: str) -> str:
    return _PLACE.sub(lambda place: values[place[1]], template)


def _read_template(path: Path, places: tuple[str, ...]) -> str:
    text = _read(path).removesuffix("\n")
    found = _PLACE.findall(text)
    for name in places:
        if name not in found:
            raise UserError(f"{path}: the placeholder {{{{{name}}}}} is missing; add it where the {name} belongs")
    for name in found:
        if name not in places:
            known = ", ".join(f"{{{{{p}}}}}" for p in places)
            raise UserError(f"{path}: unknown placeholder {{{{{name}}}}}; expected {known}")
    return text


def _read_sections(path: Path) -> dict[str, str]:
    try:
        sections = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(sections, dict) or not sections:
        raise UserError(f"{path}: expected lines `heading: part` with a part of {', '.join(PARTS)}")
    for heading, part in sections.items():
        if part not in PARTS:
            raise UserError(f"{path}: found the part {part!r} at {heading!r}, expected one of {', '.join(PARTS)}")
    if missing := [part for part in PARTS if part not in sections.values()]:
        raise UserError(f"{path}: no heading for {', '.join(missing)}")
    return {str(heading).lower(): part for heading, part in sections.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}; expected a UTF-8 text file") from None
