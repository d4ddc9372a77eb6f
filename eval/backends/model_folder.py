"""A model's folder: its place, code and fingerprint, and how prompts become its tokens."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from eval.backends.engine_context import engine_context
from eval.messages import BackendError, Request, Room
from eval.response_room import check_room
from openrlhf_mel import turns
from openrlhf_mel.disk import file_sha256
from openrlhf_mel.errors import UserError, first_line
from openrlhf_mel.prompts import without_special_tokens
from openrlhf_mel.verifier import left_open

_WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_CONFIG = ("config.json", "generation_config.json", "*.py")
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template.*",
    "chat_templates/*",
)
_QUESTION = "QUESTION"  # a text that no template treats specially
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the first kind that exists is loaded


def locate(model: str, trust_remote_code: bool = False) -> Path:
    """The folder of a model: a local one, or the downloaded copy of one on the hub.

    Raises:
        UserError: it does not exist, has no weights, or has Python code that was not allowed.
    """
    local = os.path.isdir(model)
    if not local and (os.path.exists(model) or model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise UserError(f"--model {model}: no such folder; expected a Hugging Face model, or a name on the hub")
    folder = Path(model) if local else _download(model, ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja"))
    if not (folder / "config.json").is_file():
        raise UserError(f"--model {model}: no config.json in this folder; expected a Hugging Face model")
    for name in _WITH_CODE:
        if not trust_remote_code and "auto_map" in _read(folder / name):
            raise UserError(
                f"--model {model}: its {name} names Python code of its own (auto_map), which would be run; "
                "pass --trust-remote-code if you trust it"
            )
    if not local:
        if trust_remote_code:
            _download(model, ("*.py",))
        for kind in _WEIGHTS:
            _download(model, (kind,))
            if _files(folder, (kind,)):
                break
    if not any(_files(folder, (kind,)) for kind in _WEIGHTS):
        raise UserError(f"--model {model}: no weights in this folder; expected *.safetensors or pytorch_model*.bin")
    return folder


def warn_of_endless_turns(model: str, folder: Path) -> None:
    """Warn when generation does not stop at the end of a turn of the model's chat template."""
    if fault := turns.of_folder(folder):
        print(f"warning: --model {model}: {fault}", file=sys.stderr)


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 over names and contents of the weights, of the configuration and of the tokenizer. Reads all the weights."""
    weights = next(found for kind in _WEIGHTS if (found := _files(folder, (kind, "*.index.json"))))
    return {
        "weights_sha256": _sha256(weights),
        "config_sha256": _sha256(_files(folder, _CONFIG)),
        "tokenizer_sha256": _sha256(_files(folder, _TOKENIZER)),
    }


class Encoder:
    """Encodes prompts as training does (`PromptFormat`).

    With `chat` the prompt is the user's turn of the tokenizer's template. No special token is added; those written out
    in a question are removed.
    """

    def __init__(self, tokenizer: Any, chat: bool, context: int | None) -> None:
        """`context`: the most tokens that the model can hold, prompt and response together."""
        if chat and not getattr(tokenizer, "chat_template", None):
            raise UserError("--model: its tokenizer has no chat template; expected one, or prompts without a chat")
        self.tokenizer, self._chat, self._context = tokenizer, chat, context

    def encode(self, requests: Iterable[Request], max_tokens: int) -> list[list[int]]:
        """The prompt's ids of each request; requests with the same prompt share theirs.

        Raises:
            UserError: a prompt and a response of `max_tokens` would not fit into the model; the message names the
            length that would fit.
        """
        rows, room = self._encoded(requests)
        if room:
            check_room(max_tokens, room)
        return rows

    def room(self, requests: Iterable[Request]) -> Room | None:
        """The room beside the longest prompt; None where the model's context is not known, or nothing is requested."""
        return self._encoded(requests)[1]

    def thinking_end(self) -> str | None:
        """The closing mark of the thinking that the chat template opens before a response; None where it opens none.

        None as well, with a warning, where the mark is a special token: a response is text without these, so that its
        thinking cannot be told from its answer.
        """
        if not self._chat:
            return None
        end = left_open(self._in_chat(_QUESTION).rpartition(_QUESTION)[2])
        if end in {token.lower() for token in self._special_tokens()}:
            print(
                f"warning: --model: its thinking ends with {end}, a special token, which is left out of responses: those "
                "that were cut while thinking are judged by their thinking",
                file=sys.stderr,
            )
            return None
        return end

    def _encoded(self, requests: Iterable[Request]) -> tuple[list[list[int]], Room | None]:
        known: dict[str, list[int]] = {}
        rows = []
        longest: tuple[int, Request] | None = None
        for request in requests:
            ids = known.get(request.prompt)
            if ids is None:
                ids = known[request.prompt] = self._ids(request.prompt)
                if longest is None or len(ids) > longest[0]:
                    longest = len(ids), request
                self._check_not_empty(request, ids)
            rows.append(ids)
        if longest is None or self._context is None:
            return rows, None
        length, request = longest
        return rows, Room(self._context, length, _where(request))

    def _ids(self, text: str) -> list[int]:
        text = without_special_tokens(text, self.tokenizer)
        if self._chat:
            text = self._in_chat(text)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _in_chat(self, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        rendered: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return rendered

    def _special_tokens(self) -> set[str]:
        """Those that decoding leaves out."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        return {*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special)}

    def _check_not_empty(self, request: Request, ids: list[int]) -> None:
        if not ids:
            raise UserError(f"{_where(request)}: its prompt has no tokens; expected a text")


def _where(request: Request) -> str:
    return f"question {request.question} of {request.benchmark}"


def read_encoder(model: str, folder: Path, chat: bool, trust_remote_code: bool, context: int | None) -> Encoder:
    """The encoder of a model's folder; `context` as there.

    Raises:
        BackendError: its tokenizer cannot be loaded.
        UserError: `chat`, and it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged file raises many kinds of errors
        raise BackendError(f"--model {model}: no tokenizer: {first_line(error)}") from error
    return Encoder(tokenizer, chat, context)


def context_of_engine(folder: Path) -> int | None:
    """The most tokens for which vLLM starts an engine, by the model's config.json; see `engine_context`."""
    return engine_context(_read(folder / "config.json"))


def context_of(folder: Path) -> int | None:
    """The most tokens that the model can hold, by its config.json; more when its positions are scaled (YaRN)."""
    config = _read(folder / "config.json")
    config = config.get("text_config", config)
    length = config.get("max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if isinstance(length, int) and isinstance(original, int) and isinstance(factor, int | float):
        length = max(length, int(original * factor))
    return length if isinstance(length, int) else None


def _download(model: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except Exception as error:
        raise UserError(f"--model {model}: cannot be read from the hub ({first_line(error)}); pass a folder") from None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: found {type(data).__name__}, expected a JSON object")
    return data


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _sha256(files: Sequence[Path]) -> str:
    """SHA-256 over the files' names and contents; the files are read in parallel."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        lines = [f"{digest} {path.name}\n" for path, digest in zip(files, pool.map(file_sha256, files), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
