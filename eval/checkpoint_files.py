"""Whether an export or a DeepSpeed checkpoint is complete, judged by names, sizes and the ends of files."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from openrlhf_mel.run import checkpoint
from toolkit.outputs import json_or_none

_SHARD = re.compile(r".*mp_rank_(\d+)_(?:model|optim)_states\.pt")


def export_problem(folder: Path) -> str | None:
    """What is missing in an export, or None. Upstream writes weights, configuration and tokenizer, in this order."""
    for name in ("config.json", "tokenizer_config.json"):
        if not isinstance(json_or_none(folder / name), dict):
            return f"{folder / name} is missing or damaged: its save was not finished"
    stem = "adapter_model" if (folder / "adapter_config.json").is_file() else "model"
    for name in (f"{stem}.safetensors", f"pytorch_{stem}.bin" if stem == "model" else f"{stem}.bin"):
        parts = [name]
        if (folder / f"{name}.index.json").exists():
            index = json_or_none(folder / f"{name}.index.json")
            if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
                return f"{folder / name}.index.json is damaged"
            parts = sorted(set(index["weight_map"].values()))
        elif not (folder / name).exists():
            continue
        return next((problem for part in parts if (problem := _file_problem(folder / part))), None)
    return f"{folder} holds no weights ({stem}.safetensors)"


def deepspeed_problem(folder: Path) -> str | None:
    """Why DeepSpeed's checkpoint `folder` is not whole, as training tells it, or cannot be converted."""
    if any(int(match[1]) for path in folder.iterdir() if (match := _SHARD.fullmatch(path.name))):
        return f"{folder} is split by tensor parallelism, which DeepSpeed cannot undo; train with ckpt.save_hf"
    return checkpoint.problem(folder)


def _file_problem(path: Path) -> str | None:
    """Why a weights file is missing or truncated, or None. Both formats show it at their ends; content is not read."""
    if not path.is_file():
        return f"{path} is missing"
    if path.suffix != ".safetensors":
        return None if zipfile.is_zipfile(path) else f"{path} is cut short or damaged"
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return None
    except (SafetensorError, OSError) as error:
        return f"{path} is cut short or damaged ({error})"
