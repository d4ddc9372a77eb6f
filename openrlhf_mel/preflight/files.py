"""Checks of a run's files: model, data, and disk space for checkpoints. Of weights it reads only the headers."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openrlhf_mel import turns
from openrlhf_mel.preflight.problems import Problem, warning
from openrlhf_mel.prompts import question_of
from openrlhf_mel.run import checkpoint as checkpoints
from openrlhf_mel.settings import inputs
from openrlhf_mel.settings.resolve import Settings

CHARACTERS = 3.5  # per token, when the model's tokenizer is not available; English prose has more, formulas fewer
_SAMPLE, _LONGEST = 512, 64


def weights(folder: Path) -> Iterator[Problem]:
    """A local model's weights are complete: an interrupted download would fail only in a worker."""
    flag = f"--actor.model_name_or_path {folder}"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            yield Problem(f"{index}: not an index of weights; fetch the model again")
            return
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        if not names and not any(folder.glob("pytorch_model*.bin")):
            yield Problem(f"{flag}: holds no weights; expected *.safetensors")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        yield Problem(f"{flag}: {len(missing)} of {len(names)} files of weights are missing, the first is {missing[0]}")
    for name in names:
        if name not in missing and (fault := _incomplete(folder / name)):
            yield Problem(f"{folder / name}: {fault}; fetch the file again")


def _incomplete(path: Path) -> str | None:
    """The defect of a safetensors file, by its header (8 bytes of length, JSON with the tensors' offsets)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if start.startswith(b"version "):
            return "a Git LFS pointer, not the weights"
        if not 0 < length < min(size, 100_000_000):
            return f"no safetensors header in {size} bytes"
        try:
            header = json.loads(file.read(length))
            end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "its safetensors header cannot be read"
    expected = 8 + length + end
    return f"found {size} bytes, expected {expected}" if size < expected else None


def tokenizer(folder: Path, chat: bool) -> Iterator[Problem]:
    """A local model has a tokenizer, and a chat template where one is asked for."""
    flag = f"--actor.model_name_or_path {folder}"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        yield Problem(f"{flag}: holds no tokenizer; expected tokenizer.json")
        return
    if not chat or (folder / "chat_template.jinja").is_file():
        return
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if not config.get("chat_template"):
        yield Problem(f"--data.apply_chat_template: {folder} has no chat template, as base models often; leave it out")


def end_of_turn(name: str) -> Iterator[Problem]:
    """Generation stops where the chat template of a model, local or on the hub, ends a turn."""

    def read(file: str) -> str | None:
        path = inputs.model_file(name, file, f"--actor.model_name_or_path {name}")
        return path.read_text(encoding="utf-8") if path else None

    if fault := turns.unended(read):
        yield warning(f"--data.apply_chat_template: {name}: {fault}")


class Tokens:
    """Counts tokens: by the `tokenizer.json` of a local model, else by characters."""

    def __init__(self, model: str) -> None:
        self._tokenizer = None
        path = Path(model) / "tokenizer.json"
        if path.is_file():
            from tokenizers import Tokenizer

            try:
                self._tokenizer = Tokenizer.from_file(str(path))
            except Exception:  # the model's loader reports a defective file
                self._tokenizer = None

    @property
    def exact(self) -> bool:
        """Whether the model's own tokenizer counts."""
        return self._tokenizer is not None

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens left out."""
        if self._tokenizer is None:
            return [round(len(text) / CHARACTERS) for text in texts]
        return [len(e.ids) for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def question_lengths(data: Any, key: str, tokens: Tokens) -> tuple[int, int]:
    """Mean and maximum tokens of the questions of loaded data: of a sample, and of the longest by characters."""
    texts = [question_of(value) or "" for value in data[key]]
    sample = texts[:: max(1, len(texts) // _SAMPLE)]
    longest = sorted(texts, key=len)[-_LONGEST:]
    counts = tokens.count(sample)
    return round(sum(counts) / len(counts)), max(tokens.count(longest) + counts)


def disk(
    settings: Settings, checkpoint: float, model_bytes: float, saves: int | None
) -> tuple[list[Problem], dict[str, Any]]:
    """Space for `ckpt.max_num` checkpoints, the best, one being written, and the final model, minus existing ones.

    Hugging Face copies (`ckpt.save_hf`) are never rotated by upstream: one for each of the run's `saves`.
    """
    values = settings.upstream
    best = bool(values["eval.dataset"]) and values["ckpt.best_metric_key"] != "none"
    kept = values["ckpt.max_num"] + 1 if values["ckpt.save_steps"] > 0 else 0
    if values["ckpt.disable_ds"]:
        kept, best = 0, False
    copies = (saves or kept) if values["ckpt.save_hf"] and values["ckpt.save_steps"] > 0 else 0
    found = checkpoints.find(Path(values["ckpt.path"], "_actor")) if values["ckpt.load_enable"] else []
    made = sum(c.size for c in found)
    # A new one is written before an old one is removed, whatever exists.
    rest = max((kept + best) * checkpoint - made, min(kept, 1) * checkpoint)
    needs: dict[str, float] = {values["ckpt.path"]: rest + copies * model_bytes}
    needs[values["ckpt.output_dir"]] = model_bytes
    by_device: dict[int, tuple[str, float, int]] = {}
    for path, need in needs.items():
        there = _existing(Path(path))
        device, free = os.stat(there).st_dev, shutil.disk_usage(there).free
        first, so_far, _ = by_device.get(device, (path, 0.0, 0))
        by_device[device] = first, so_far + need, free
    problems = []
    for path, need, free in by_device.values():
        if need > free:
            problems.append(
                Problem(
                    f"--ckpt.path {path}: {free / 1e9:.0f} GB are free, expected {need / 1e9:.0f}: {kept + best} "
                    f"checkpoints of {checkpoint / 1e9:.1f} GB (--ckpt.max_num, the best, one being written; "
                    f"{made / 1e9:.0f} GB are there), {copies} copies (--ckpt.save_hf) and the model, {model_bytes / 1e9:.1f} GB each; lower --ckpt.max_num or "
                    "choose another --mel.run_dir"
                )
            )
    if copies:
        problems.append(
            warning(f"--ckpt.save_hf: upstream never removes these copies; {copies} of {model_bytes / 1e9:.1f} GB each")
        )
    return problems, {
        "checkpoint_gb": checkpoint / 1e9,
        "checkpoints": kept + best,
        "copies": copies,
        "model_gb": model_bytes / 1e9,
        "needed_gb": sum(need for _, need, _ in by_device.values()) / 1e9,
        "free_gb": min(free for _, _, free in by_device.values()) / 1e9,
    }


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())
