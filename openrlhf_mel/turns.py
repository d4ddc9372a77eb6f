"""Whether generation stops where a chat template ends a turn, from a model's files alone: no tokenizer is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from openrlhf_mel.errors import UserError

_QUESTION, _ANSWER = "QUESTION", "ANSWER"  # texts that no template treats specially
_GENERATION = re.compile(r"(\{%-?)\s*(?:end)?generation\s*(-?%\})")  # transformers' own tag, which changes no text


def unended(read: Callable[[str], str | None]) -> str | None:
    """The message for a chat template that ends a turn with a token that is no end token; None when it fits.

    A template that ends a turn without a special token, or that has other defects, is not reported: loading the
    tokenizer shows them.

    Args:
        read: gives the text of one of the model's files, None where there is none.
    """
    try:
        tokenizer = _json(read, "special_tokens_map.json") | _json(read, "tokenizer_config.json")
        special = _special_tokens(read, tokenizer)
        turn = _end_of_turn(_template(read, tokenizer), set(special.values()), tokenizer)
        ends = _end_tokens(read, tokenizer, special)
    except UserError:  # the file could not be read at all
        raise
    except Exception:  # files of published models, above all templates, fail in many ways
        return None
    if turn is None or turn in ends:
        return None
    return (
        f"the chat template ends a turn with {turn}, generation ends at {', '.join(ends) or 'no token'}: every response "
        f"may run to its maximal length. Make {turn} the eos_token of tokenizer_config.json, and its id an eos_token_id of "
        "generation_config.json"
    )


def of_folder(folder: Path) -> str | None:
    """`unended` of a local model."""

    def read(name: str) -> str | None:
        path = folder / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    return unended(read)


def _json(read: Callable[[str], str | None], name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read(name) or "{}")
    return content


def _special_tokens(read: Callable[[str], str | None], tokenizer: dict[str, Any]) -> dict[int, str]:
    added = tokenizer.get("added_tokens_decoder") or {}
    rows = [{"id": int(number)} | token for number, token in added.items()]
    rows = rows or _json(read, "tokenizer.json").get("added_tokens", [])
    return {row["id"]: row["content"] for row in rows if row.get("special")}


def _template(read: Callable[[str], str | None], tokenizer: dict[str, Any]) -> str:
    """The template of prompts, "" when there is none."""
    template = read("chat_template.jinja") or tokenizer.get("chat_template") or ""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    return template.get("default", "") if isinstance(template, dict) else template


def _end_of_turn(template: str, special: set[str], tokenizer: dict[str, Any]) -> str | None:
    """The first special token after an answer."""
    if not template:
        return None
    _, answer, rest = _rendered(template, tokenizer).rpartition(_ANSWER)
    there = [token for token in special if answer and token in rest]
    return min(there, key=lambda token: (rest.index(token), -len(token)), default=None)


def _rendered(template: str, tokenizer: dict[str, Any]) -> str:
    """A question and an answer, as transformers renders them."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    names = {name: _content(token) for name, token in tokenizer.items() if name.endswith("_token")}
    text = _GENERATION.sub(r"\1 set _ = 0 \2", template)
    return environment.from_string(text).render(
        messages=messages, tools=None, documents=None, add_generation_prompt=False, **names
    )


def _end_tokens(read: Callable[[str], str | None], tokenizer: dict[str, Any], special: dict[int, str]) -> list[str]:
    """The tokens at which vLLM and transformers end a response: the tokenizer's, and the generation configuration's."""
    generation = read("generation_config.json")
    chosen = (json.loads(generation) if generation is not None else _json(read, "config.json")).get("eos_token_id")
    numbers = chosen if isinstance(chosen, list) else [chosen]
    tokens = [_content(tokenizer.get("eos_token")), *(special.get(n, f"id {n}") for n in numbers if n is not None)]
    return list(dict.fromkeys(token for token in tokens if token))


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
