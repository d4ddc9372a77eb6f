"""Seeds that are taken together have the same settings but for the seed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.identity import differences
from openrlhf_mel.errors import UserError

_OWN = {"seed", "n", "metrics"}  # n and metrics, which only metrics.json has, are compared as the metrics that it has


def check_seeds(found: Mapping[Path, Mapping[str, Any]]) -> None:
    """Compare the settings of one model's seeds, by folder, with those of the first.

    Raises:
        UserError: they differ in more than the seed.
    """
    own = {folder: {key: settings[key] for key in settings.keys() - _OWN} for folder, settings in found.items()}
    for folder, settings in own.items():
        first = next(iter(own))
        if changed := differences(own[first], settings):
            raise UserError(
                f"{first} and {folder}: found seeds of other settings, {'; '.join(changed)}; expected one model and one "
                "set of settings; evaluate the others into another --output-dir"
            )
