"""The audit's page: the drawn responses, the verdicts so far, and keys to judge. Nothing in it is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.auditing.judgements import Judgement
from eval.auditing.texts import Audited
from eval.page.browser import dump, shorten
from eval.page.content_policy import content_policy

_SOURCES = Path(__file__).parent
_LONGEST_PROBLEM, _LONGEST_ANSWER = 8000, 2000  # characters


def render(name: str, order: Sequence[Audited], found: Mapping[str, Judgement], max_characters: int) -> str:
    """The page of the evaluation `name`.

    Its content policy allows only its own style and script, by their hashes, and requests to where it comes from. A
    model's texts are in it as JSON without `<`.

    Args:
        max_characters: a longer response is shortened to its beginning and its end, half of it each.
    """
    style, script = ((_SOURCES / file).read_text(encoding="utf-8") for file in ("audit.css", "audit.js"))
    data = {
        "responses": [_response(audited, max_characters) for audited in order],
        "verdicts": {audited.key: found[audited.key].verdict for audited in order if audited.key in found},
    }
    environment = Environment(
        loader=FileSystemLoader(_SOURCES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit.html.j2").render(
        name=name,
        policy=content_policy(style, script, connect_src="'self'"),
        style=Markup(style),
        script=Markup(script),
        data=Markup(dump(data)),
    )


def _response(audited: Audited, max_characters: int) -> dict[str, Any]:
    question, sample = audited.question, audited.sample
    return {
        "key": audited.key,
        "benchmark": question.benchmark,
        "question": question.id,
        "sample": "greedy" if sample.greedy else f"sample {sample.sample}",
        "problem": shorten(question.problem, _LONGEST_PROBLEM),
        "gold": shorten(question.answer, _LONGEST_ANSWER),
        "unit": question.unit,
        "tolerance": question.tolerance,
        "extracted": _answer(sample.extracted),
        "response": shorten(sample.response, max_characters),
        "finish_reason": sample.finish_reason,
        "tokens": sample.tokens,
        "status": sample.status,
        "lenient_status": sample.lenient_status,
        "lenient_extracted": _answer(sample.lenient_extracted),
        "class": audited.suspicion.name,
        "rule": audited.suspicion.rule,
    }


def _answer(extracted: str | None) -> Any:
    return None if extracted is None else shorten(extracted, _LONGEST_ANSWER)
