"""Checks of the model, the data and the templates before Ray starts."""

from __future__ import annotations

import json
import os
import runpy
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openrlhf_mel.errors import UserError, first_line
from openrlhf_mel.prompts import Templates, question_of
from openrlhf_mel.settings import flags
from openrlhf_mel.settings.resolve import Settings
from openrlhf_mel.verifier import CHOICE, MATH, SCORER, Reference, check_golds, check_named_by_data, check_scorer

DATA = {"data.prompt_dataset": "data.prompt_split", "eval.dataset": "eval.split"}  # flag: the flag of its split


def check_model(settings: Settings) -> None:
    """The model exists, is a text model, and has no code of its own unless `mel.trust_remote_code` allows it."""
    name = settings.upstream["actor.model_name_or_path"]
    flag = f"--actor.model_name_or_path {name}"
    if os.path.isdir(name):
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"{flag}: no config.json in this folder; expected a Hugging Face model")
    elif os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{flag}: no such folder; expected a Hugging Face model, or a name on the hub")
    config = model_json(name, "config.json", flag)
    # For such a model OpenRLHF uses a processor as the tokenizer: lengths of prompts would be wrong silently.
    for key in ("vision_config", "audio_config", "thinker_config"):
        if key in config:
            raise UserError(
                f"{flag}: its config.json has {key}: images and sound are not supported; pass a text-only checkpoint (of "
                "this model, its language model saved alone)"
            )
    if settings.mel.trust_remote_code:
        return
    for file in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        if "auto_map" in model_json(name, file, flag):
            raise UserError(
                f"{flag}: its {file} names Python code of its own (auto_map), which would be run; "
                "pass --mel.trust_remote_code if you trust it"
            )


def model_json(name: str, file: str, flag: str) -> dict[str, Any]:
    """A JSON file of the model; empty when it does not exist."""
    path = model_file(name, file, flag)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def model_file(name: str, file: str, flag: str) -> Path | None:
    """A file of the model, local or from the hub; None when it does not exist."""
    path = Path(name) / file
    if os.path.isdir(name):
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except EntryNotFoundError as error:  # on the hub, or without a connection in the cache
        if file != "config.json":
            return None
        raise UserError(
            f"{flag}: its config.json cannot be read ({first_line(error.__cause__ or error)}); pass a folder"
        ) from None
    except Exception as error:
        raise UserError(
            f"{flag}: cannot be read from the hub ({first_line(error.__cause__ or error)}); pass a folder"
        ) from None


def check_templates(settings: Settings) -> None:
    """The template folder is complete."""
    Templates.load(settings.mel.template_dir)


def check_data(settings: Settings) -> dict[str, str]:
    """Training and evaluation data load by upstream's own function, have the configured columns, and fit each other.

    Returns:
        The functions that the data name as scorers: name -> hash of its file.
    """
    train, evaluation = (read_data(settings, flag) for flag in DATA)
    check_evaluation(settings.upstream, train, evaluation)
    own_reward = _own_reward(settings)
    named = {name for data in (train, evaluation) if data is not None for name in _scorers(data, own_reward)}
    return {name: own for name in sorted(named) if (own := check_scorer(name))}


def read_data(settings: Settings, flag: str) -> Any:
    """The checked rows that `flag` (of `DATA`) names, as upstream's function reads them; None when it names none.

    The function is loaded from its file: importing its package takes seconds, and all of torch.
    """
    values = settings.upstream
    name = values[flag]
    if not name:
        return None
    quiet = SimpleNamespace(
        print=lambda *_: None, is_rank_0=lambda: False, args=SimpleNamespace(use_ms=values["use_ms"])
    )
    for part in name.split(","):
        path = part.strip().split("@")[0]
        if not os.path.exists(path) and (Path(path).suffix or path.startswith((".", "/", "~"))):
            raise UserError(f"--{flag} {path}: no such file; expected jsonl, parquet, csv, or a name on the hub")
    probabilities = values["data.prompt_probs"] if flag == "data.prompt_dataset" else None
    blend = runpy.run_path(str(flags.source_path("datasets/utils.py")))["blending_datasets"]
    try:
        data = blend(name, probabilities, quiet, dataset_split=values[DATA[flag]])
    except Exception as error:
        _check_split(error, DATA[flag], values[DATA[flag]])
        raise UserError(f"--{flag} {name}: cannot be loaded: {first_line(error.__cause__ or error)}") from None
    _check_columns(data, flag, name, values)
    _check_scorers(data, flag, name, settings)
    return data


def _check_split(error: Exception, flag: str, split: str) -> None:
    """Raises UserError when upstream's function failed because the loaded data have no such split.

    It then uses the collection of all splits as the data, without a message; its frame still holds them.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        there = frame.f_locals.get("data")
        if frame.f_code.co_name == "blending_datasets" and isinstance(there, dict):
            name, splits = frame.f_locals["dataset"], ", ".join(there) or "none"
            raise UserError(f"--{flag}: found {split!r}, expected a split of {name}, which has {splits}") from None


def check_evaluation(values: dict[str, Any], train: Any, evaluation: Any | None) -> None:
    """All evaluation questions are used, and a checkpoint is chosen by questions that are not trained on."""
    key = values["ckpt.best_metric_key"]
    choosing = key not in ("", "none")
    if choosing and (evaluation is None or values["eval.steps"] < 1):
        raise UserError(
            f"--ckpt.best_metric_key {key}: nothing is evaluated; give --eval.dataset (a validation split) and "
            "--eval.steps, or set it to none"
        )
    if evaluation is None:
        return
    if len(evaluation) > values["data.max_samples"]:
        raise UserError(
            f"--eval.dataset {values['eval.dataset']}: {len(evaluation)} questions, of which OpenRLHF would evaluate the "
            f"first {values['data.max_samples']} (--data.max_samples); shorten the file, or raise --data.max_samples"
        )
    if not choosing:
        return
    sources = evaluation["datasource"] if "datasource" in evaluation.column_names else ["default"] * len(evaluation)
    samples = values["eval.n_samples_per_prompt"]
    keys = {f"eval_{source}_pass{k}": source for source in sorted(set(sources)) for k in (samples, 1)}
    if key not in keys:
        raise UserError(
            f"--ckpt.best_metric_key {key}: not among what is measured on {values['eval.dataset']}; expected one of "
            f"{', '.join(keys)}, or none"
        )
    column = values["data.input_key"]
    learned = {_words(value) for value in train[column]}
    for i, (value, source) in enumerate(zip(evaluation[column], sources, strict=True)):
        if source == keys[key] and _words(value) in learned:
            raise UserError(
                f"--ckpt.best_metric_key {key}: question {i + 1} of {values['eval.dataset']} is also trained on, so that "
                "the choice would reward memorisation; split them (data/prepare_train.py --validation)"
            )


def _words(value: Any) -> str:
    """A question without what its white space says."""
    return " ".join((question_of(value) or "").split())


def _check_columns(data: Any, flag: str, name: str, values: dict[str, Any]) -> None:
    if not len(data):
        raise UserError(f"--{flag} {name}: no rows; expected at least one question")
    missing = [key for key in ("data.input_key", "data.label_key") if values[key] not in data.column_names]
    if missing:
        found = ", ".join(data.column_names)
        raise UserError(*(f"--{key} {values[key]}: {name} has no such column; found {found}" for key in missing))
    for i, value in enumerate(data[values["data.input_key"]]):
        if question_of(value) is None:
            raise UserError(
                f"--{flag} {name}: row {i + 1} has {str(value)[:60]!r} under {values['data.input_key']!r}; "
                "expected a question: a text, or a list of one user message (also one that is stored as text)"
            )
    for i, value in enumerate(data[values["data.label_key"]]):
        if not isinstance(value, str | int | float) or not str(value).strip():
            raise UserError(
                f"--{flag} {name}: row {i + 1} has {str(value)[:60]!r} under {values['data.label_key']!r}; "
                "expected a reference answer: a text or a number"
            )


def scorer_of(cell: Any, own_reward: bool) -> Any:
    """A row's scorer: what its column names, else `math`. A column beside a reward of the user's own may mean anything.

    Args:
        cell: of the column `scorer`; None where the row has none.
        own_reward: whether a reward function or a reward model judges instead of the verifier.
    """
    return MATH if cell is None or own_reward else cell


def _own_reward(settings: Settings) -> bool:
    return bool(settings.upstream["reward.remote_url"] or settings.upstream["reward.model_name_or_path"])


def _scorers(data: Any, own_reward: bool) -> list[str]:
    """The scorer of each row."""
    cells = data[SCORER] if SCORER in data.column_names else [None] * len(data)
    return [scorer_of(cell, own_reward) for cell in cells]


def _check_scorers(data: Any, flag: str, name: str, settings: Settings) -> None:
    """Each scorer is known, or a function that the user allows and that loads; answers of `choice` name an option."""
    values, scorers = settings.upstream, _scorers(data, _own_reward(settings))
    first = {repr(scorer): i for i, scorer in reversed(list(enumerate(scorers)))}  # repr: a cell may be a list
    for i in sorted(first.values()):
        try:
            check_named_by_data(scorers[i], settings.mel.trust_remote_code, "--mel.trust_remote_code")
            check_scorer(scorers[i])
        except UserError as error:
            rename = f"rename the column if it is not the verifier's {SCORER}"
            raise UserError(f"--{flag} {name}: row {i + 1}, column {SCORER!r}: {error}; {rename}") from None
    rows = [i for i, scorer in enumerate(scorers) if scorer == CHOICE]
    questions, labels = data[values["data.input_key"]], data[values["data.label_key"]]
    golds = [Reference(str(labels[i]).strip(), CHOICE, question_of(questions[i]) or "") for i in rows]
    for at, why in check_golds(golds).items():
        raise UserError(
            f"--{flag} {name}: row {rows[at] + 1}, {values['data.label_key']!r}: {why}; correct or drop the row"
        )
