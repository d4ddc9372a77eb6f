"""A checkpoint's weights -> a model folder in Hugging Face's format.

The weights are those that the policy computed with: DeepSpeed's fp32 master weights, cast to the format that each had
in training (bf16 unless the run says otherwise); LoRA adapters are merged in fp32 and rounded once.

Security: a DeepSpeed checkpoint, and an adapter saved under ZeRO-3, is a pickle, which could run code. So torch always
uses its restricted unpickler, in DeepSpeed's own functions too. It loads plain data, tensors, and the four classes of
DeepSpeed that such files contain. Code in a model's folder (`auto_map`) is not run.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from eval.training_run import Run
from openrlhf_mel.errors import UserError, first_line

_WRAPPERS = ("", "module.", "model.", "module.model.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence DeepSpeed's messages and all progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@_quiet()
def from_deepspeed(source: Path, run: Run, target: Path) -> None:
    """Consolidate the shards in `source` (ZeRO 1, 2 or 3, any number of ranks) and save the model in `target`.

    Held in memory: the shards' fp32 weights (mapped from the files; under ZeRO 1 and 2 one copy more) and the model.

    Raises:
        UserError: shards that cannot be read, or that do not fit the base model; the message names the weights.
    """
    origin = _origin(run)
    weights = _held_weights(source)
    dtype = max(weights.values(), key=torch.Tensor.numel).dtype
    # On the meta device a model has only names and shapes: the checkpoint's own tensors alone take memory.
    with torch.device("meta"):
        config = _config(origin)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        holder = _with_lora(model, run)
    holder.load_state_dict(_fitted(weights, holder, source, origin), assign=True)
    del weights
    model.tie_weights()
    _save(model if holder is model else _merged(holder, dtype), origin, target)


@_quiet()
def from_adapter(source: Path, run: Run, target: Path) -> None:
    """Merge the LoRA adapter in `source` into the run's base model and save the model in `target`.

    Raises:
        UserError: no base model, or an adapter that does not fit it.
    """
    dtype = _config(str(source)).dtype  # the policy's dtype; the base model's files may have another
    try:
        model = AutoModelForCausalLM.from_pretrained(run.base, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{run.base}: the base model of the LoRA adapter {source} cannot be read ({error})") from None
    try:
        holder = get_peft_model(model, PeftConfig.from_pretrained(source))
        result = set_peft_model_state_dict(holder, load_peft_weights(str(source), device="cpu"))
    except (RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{source}: this adapter does not fit {run.base} ({first_line(error)})") from None
    missing = [name for name in result.missing_keys if "lora_" in name]  # the others are the base model's
    _refuse(source, run.base, {"missing": missing, "unexpected": result.unexpected_keys})
    _save(_merged(holder, dtype), run.base, target)


def _held_weights(source: Path) -> dict[str, torch.Tensor]:
    """Weights by name, as the policy held them. Raises UserError for a checkpoint that cannot be read."""
    with _restricted_unpickling(source):
        from deepspeed.utils import zero_to_fp32 as shards

        full = shards.get_fp32_state_dict_from_zero_checkpoint(str(source.parent), tag=source.name, lazy_mode=True)
        # Has every name and dtype, under ZeRO 1 and 2 also the values. ZeRO 1 leaves frozen weights out of `full`.
        states = shards.get_model_state_files(str(source))[0]
        module = torch.load(states, map_location="cpu", mmap=True, weights_only=True)["module"]
        cast: dict[int, torch.Tensor] = {}  # tied weights are one object
        weights = {}
        for name in [*module, *(name for name in full if name not in module)]:
            value = full[name] if name in full else module[name]
            if id(value) not in cast:
                dtype = module[name].dtype if name in module else value.dtype
                cast[id(value)] = value.contiguous().to(dtype, copy=True)
            weights[name] = cast[id(value)]
    return weights


@contextlib.contextmanager
def _restricted_unpickling(source: Path) -> Iterator[None]:
    """Within this context torch loads only plain data, tensors and DeepSpeed's four classes, even if asked for more."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        with torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
            yield
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))  # within torch's long advice
        raise UserError(
            f"{source}: holds more than weights and plain data, so that reading it could run code "
            f"({found[1] if found else first_line(error)}); if you trust it, convert it with {source.parent / 'zero_to_fp32.py'}"
        ) from None
    except (
        AttributeError,
        EOFError,
        FileNotFoundError,
        IndexError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{source}: cannot be put together ({first_line(error)})") from None
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


def _origin(run: Run) -> str:
    """The source of configurations and tokenizer: the base model, or the final model if the base is gone."""
    reasons = []
    for place in (run.base, str(run.final)):
        try:
            _config(place)
            if os.path.isdir(place) and not any(Path(place).glob("tokenizer*")):
                raise OSError("no tokenizer in this folder")  # transformers would create an empty one
            return place
        except (OSError, ValueError) as error:
            reasons.append(f"{place}: {first_line(error)}")
    raise UserError(f"the run's base model is needed for its configuration and cannot be read: {'; '.join(reasons)}")


def _config(place: str) -> Any:
    """The configuration there. Raises OSError or ValueError when it cannot be read, UserError when it has own code."""
    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    if getattr(config, "auto_map", None):
        raise UserError(
            f"{place}: its config.json names Python code of its own (auto_map), which a conversion does not run; "
            "train with ckpt.save_hf, and evaluate the checkpoints/<tag>_hf folders as --model"
        )
    return config


def _with_lora(model: PreTrainedModel, run: Run) -> PreTrainedModel | PeftModel:
    """`model`, with LoRA wrapped in adapters as OpenRLHF's `Actor` does it."""
    rank = run.config.get("ds.lora.rank") or 0
    if not rank:
        return model
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=run.config["ds.lora.alpha"],
        target_modules=run.config["ds.lora.target_modules"],
    )
    return get_peft_model(model, config)


def _fitted(weights: dict[str, torch.Tensor], model: nn.Module, source: Path, origin: str) -> dict[str, torch.Tensor]:
    """`weights` under the names of `model`: without wrappers' prefixes, with tied names filled in."""
    expected = model.state_dict()
    tied = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied[id(parameter)].append(name)
    # The prefix under which most names are known; the error lists the others.
    prefix = max(_WRAPPERS, key=lambda p: sum(name.startswith(p) and name[len(p) :] in expected for name in weights))
    fitted = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    for names in tied.values():
        given = next((fitted[name] for name in names if name in fitted), None)
        if given is not None:
            fitted |= {name: given for name in names if name not in fitted}
    shapes = [
        f"{name} {tuple(fitted[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected.keys() & fitted.keys()
        if fitted[name].shape != expected[name].shape
    ]
    _refuse(
        source,
        origin,
        {
            "missing": [name for name in expected if name not in fitted],
            "unexpected": [name for name in fitted if name not in expected],
            "of another shape": sorted(shapes),
        },
    )
    return fitted


def _refuse(source: Path, origin: str, faults: dict[str, list[str]]) -> None:
    """Raise UserError naming the weights that do not fit, if any."""
    found = [
        f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in faults.items()
        if names
    ]
    if found:
        raise UserError(f"{source}: its weights are not those of the model in {origin}; {'; '.join(found)}")


def _merged(holder: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    return holder.float().merge_and_unload().to(dtype)


def _save(model: PreTrainedModel, origin: str, target: Path) -> None:
    """Write the model's folder. Raises UserError before it writes a weight when the disk has too little space."""
    target.mkdir(parents=True)
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(target).free
    if free < needed:
        raise UserError(f"{target.parent}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; make room")
    try:
        model.save_pretrained(target)
    except SafetensorError as error:  # raised for a full disk
        raise OSError(f"{target}: {error}") from None
    with contextlib.suppress(OSError):  # a base model may have none
        GenerationConfig.from_pretrained(origin).to_json_file(target / "generation_config.json")
    AutoTokenizer.from_pretrained(origin, trust_remote_code=False).save_pretrained(target)
