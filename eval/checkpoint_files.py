"""Whether a checkpoint's files are all there and whole, told from names, sizes and the ends of files."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

_SHARD = re.compile(r".*?(?:zero_pp_rank_(?P<rank>\d+)_)?mp_rank_(?P<part>\d+)_(?P<what>model|optim)_states\.pt")


def read_json(path: Path) -> Any:
    """The file's content; None where there is no such file or no JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def export_problem(folder: Path) -> str | None:
    """What an export lacks. Upstream writes weights, configuration and tokenizer, in this order."""
    for name in ("config.json", "tokenizer_config.json"):
        if not isinstance(read_json(folder / name), dict):
            return f"{folder / name} is missing or damaged: its save was not finished"
    stem = "adapter_model" if (folder / "adapter_config.json").is_file() else "model"
    for name in (f"{stem}.safetensors", f"pytorch_{stem}.bin" if stem == "model" else f"{stem}.bin"):
        parts = [name]
        if (folder / f"{name}.index.json").exists():
            index = read_json(folder / f"{name}.index.json")
            if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
                return f"{folder / name}.index.json is damaged"
            parts = sorted(set(index["weight_map"].values()))
        elif not (folder / name).exists():
            continue
        return next((problem for part in parts if (problem := _file_problem(folder / part))), None)
    return f"{folder} holds no weights ({stem}.safetensors)"


def deepspeed_problem(folder: Path, config: dict[str, Any]) -> str | None:
    """Why DeepSpeed's checkpoint `folder` is not whole. The last thing a save writes is `latest`, then `metric.json`."""
    latest = folder.parent / "latest"
    if not latest.is_file():
        return (
            f"{latest} is missing: no save was finished (if the folder was copied, write the tag's name into that file)"
        )
    newest = latest.read_text(encoding="utf-8", errors="replace").strip()
    if newest != folder.name and not (folder / "metric.json").is_file():
        return f"{folder / 'metric.json'} is missing and `latest` names {newest}: its save was not finished"
    files = {path.name: match for path in folder.iterdir() if (match := _SHARD.fullmatch(path.name))}
    if any(int(match["part"]) for match in files.values()):
        return f"{folder} is split by tensor parallelism, which DeepSpeed cannot undo; train with ckpt.save_hf"
    if missing := _missing_shards(files, config):
        return f"{folder} lacks {', '.join(missing[:4])}{' and more' if len(missing) > 4 else ''}"
    return next((problem for name in sorted(files) if (problem := _file_problem(folder / name))), None)


def _missing_shards(files: dict[str, re.Match[str]], config: dict[str, Any]) -> list[str]:
    """Names of shards that a save of this run has and `files` lacks; the run's GPUs say how many there are."""
    ranks = config.get("actor.num_nodes", 1) * config.get("actor.num_gpus_per_node", 1)
    there = {(match["what"], int(match["rank"] or 0)) for match in files.values()}
    split = config.get("ds.zero_stage") == 3
    states = ("zero_pp_rank_{}_" if split else "") + "mp_rank_00_model_states.pt"
    missing = [states.format(rank) for rank in range(ranks if split else 1) if ("model", rank) not in there]
    optimizer = "*zero_pp_rank_{}_mp_rank_00_optim_states.pt"
    return missing + [optimizer.format(rank) for rank in range(ranks) if ("optim", rank) not in there]


def _file_problem(path: Path) -> str | None:
    """A weights file that is missing or cut short. Both formats tell by their ends; the content is not read."""
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
