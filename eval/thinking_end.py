"""The end tag of a model's thinking, where its prompt opens the thinking: which one it is, and what it changes. Pure.

A chat template may end with an opening mark (`<think>`). The mark then stands in no response, so a response without the
closing one was cut while thinking, and is judged as if the opening mark stood before it. The settings of an evaluation
record the closing mark where there is one (`template.thinking_end`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.store import Sample
from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import ends_in_thinking, has_thinking, opening_mark

AUTO, NONE = "auto", "none"
_KEY = "thinking_end"


def checked(flag: str) -> str:
    """The value of `--thinking-end`: `auto`, `none`, or a closing mark that the verifier knows.

    Raises:
        UserError: anything else.
    """
    value = flag.strip().lower()
    if value not in (AUTO, NONE) and opening_mark(value) is None:
        raise UserError(
            f"--thinking-end {flag}: unknown; expected {AUTO}, {NONE}, or a tag that ends thinking, such as </think> or "
            "[/THINK] (openrlhf_mel/verifier/thinking.py has them all)"
        )
    return value


def recorded(flag: str, of_template: str | None) -> dict[str, str | None]:
    """What `settings.template` records for a flag, beside the end tag of the model's chat template.

    Nothing where neither names a tag. `none` is recorded (as None) where it overrides a template.
    """
    end = {AUTO: of_template, NONE: None}.get(flag, flag)
    return {} if end is None and of_template is None else {_KEY: end}


def recorded_end(settings: Mapping[str, Any]) -> str | None:
    """The end tag that an evaluation's settings record, if any."""
    end = _template(settings).get(_KEY)
    return end if isinstance(end, str) and opening_mark(end) else None


def with_end(settings: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from before end tags were recorded, with that of `chosen`; others as they are."""
    template = _template(settings)
    if not template or _KEY in template or _KEY not in chosen["template"]:
        return settings
    return settings | {"template": template | {_KEY: chosen["template"][_KEY]}}


def opening(end: str | None, thought: str | None) -> str:
    """The mark that stands open before a response, "" for none.

    A server that gave the thinking apart (`thought`) has removed it with its marks.
    """
    return (opening_mark(end) or "") if end is not None and thought is None else ""


def seen(sample: Sample) -> bool:
    """Whether a response shows thinking: a mark, or what a server gave apart."""
    return sample.thought is not None or has_thinking(sample.response)


def unfinished(sample: Sample, end: str | None) -> bool:
    """Whether a response ends inside its thinking."""
    if sample.thought is not None and not sample.response.strip():
        return True
    return ends_in_thinking(opening(end, sample.thought) + sample.response)


def _template(settings: Any) -> dict[str, Any]:
    """What settings record of the prompt; nothing where they are damaged."""
    template = settings.get("template") if isinstance(settings, dict) else None
    return template if isinstance(template, dict) else {}
