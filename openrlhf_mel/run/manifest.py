"""A run's manifest: its settings, seeds, versions and commit, and the hashes of its data, templates and scorers."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from openrlhf_mel import __version__, provenance
from openrlhf_mel.disk import file_sha256
from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import Templates
from openrlhf_mel.settings import vllm_build
from openrlhf_mel.settings.paradigms import PARADIGMS
from openrlhf_mel.settings.resolve import Settings

_PACKAGES = ("openrlhf", "deepspeed", "ray", "torch", "transformers", "flash-attn", "math-verify")


def of(settings: Settings, scorers: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """The manifest of a run that starts now; `scorers` are functions of the user's own, with the hash of each one's file."""
    data = {
        flag: {
            part: file_sha256(Path(part)) if Path(part).is_file() else None
            for part in map(str.strip, settings.upstream[flag].split(","))
        }
        for flag in ("data.prompt_dataset", "eval.dataset")
        if settings.upstream[flag]
    }
    return {
        "started": provenance.now(),
        "finished": None,
        "config": settings.as_dict(),
        "objective": PARADIGMS[settings.mel.algorithm].stated(settings.upstream),
        "seed": {"train.seed": settings.upstream["train.seed"], "mel.seed": settings.mel.seed},
        "versions": {"openrlhf_mel": __version__, "python": platform.python_version()}
        | _vllm()
        | {name: provenance.version(name) for name in _PACKAGES},
        "commit": provenance.commit(),
        "data_sha256": data,
        "templates_sha256": Templates.load(settings.mel.template_dir).sha256,
        "scorers_sha256": dict(scorers),
    }


def _vllm() -> dict[str, str | None]:
    """vLLM's version, by the distribution's name; None when vLLM is not installed."""
    build = vllm_build.installed()
    return {build.distribution: build.version} if build else {"vllm": None}


def check_unchanged(run_dir: Path, first: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError when a resumed run would use other data, templates or scorers."""
    # A run of before there were scorers' hashes has none to compare with.
    first = {"scorers_sha256": now["scorers_sha256"]} | first
    for name in ("data_sha256", "templates_sha256", "scorers_sha256"):
        if first.get(name) != now[name]:
            there = first.get(name) or {}
            differing = [k for k in there | now[name] if there.get(k) != now[name].get(k)]
            raise UserError(
                f"--mel.run_dir {run_dir}: the content of {', '.join(differing)} has changed since the run began; put it "
                "back, or choose another folder"
            )
