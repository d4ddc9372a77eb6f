"""The end tag of a chat template, and the room beside a prompt, as the backends with a tokenizer tell them."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from eval.backends.hf import HFBackend
from eval.backends.model_folder import Encoder
from eval.backends.openai import OpenAIBackend
from eval.backends.vllm import VLLMBackend
from eval.messages import PromptingBackend, Request, Room
from openrlhf_mel.settings import vllm_build
from openrlhf_mel.settings.vllm_build import Build

pytestmark = pytest.mark.timeout(120)

MODEL = Path(__file__).parents[3] / "data" / "toy" / "model"
TURN = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
END = "</think>"


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (TURN + "{% if add_generation_prompt %}<|assistant|>{% endif %}", None),  # it may think by itself
        (TURN + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}", END),  # Qwen3-Thinking, DeepSeek-R1
        (TURN + "{% if add_generation_prompt %}<|assistant|><think>\n\n</think>\n\n{% endif %}", None),
        ("Write <think> first. " + TURN + "<|assistant|>", None),  # a system's words open nothing
        ("Write <think></think> first. " + TURN + "<|assistant|>[THINK]", "[/think]"),
        (TURN + "{% if enable_thinking is defined %}<think>{% endif %}", None),
        ("{{ messages[0]['content'] | upper }}<think>", END),
    ],
)
def test_what_a_template_leaves_open(tokenizer, template, end):
    tokenizer.chat_template = template
    assert Encoder(tokenizer, True, None).thinking_end() == end
    assert Encoder(tokenizer, False, None).thinking_end() is None


@pytest.mark.parametrize("token", [END, "</Think>"])
def test_an_end_tag_that_decoding_removes_is_not_used(tokenizer, token, capsys):
    tokenizer.chat_template = TURN + "<|assistant|><think>"
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    ids = tokenizer(f"2{token}3", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "23"
    assert Encoder(tokenizer, True, None).thinking_end() is None
    assert f"its thinking ends with {END}, a special token, which is left out of responses" in capsys.readouterr().err


def test_an_end_tag_that_is_a_token_of_its_own_is_used(tokenizer):
    tokenizer.chat_template = TURN + "<|assistant|><think>"
    tokenizer.add_tokens([END])  # as in Qwen3
    ids = tokenizer(f"2{END}3", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"2{END}3"
    assert Encoder(tokenizer, True, None).thinking_end() == END


def test_backends_with_a_tokenizer_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_build, "installed", lambda: Build("vllm", "0.29.0"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    path = folder / "chat_template.jinja"
    path.write_text(TURN + "{% if add_generation_prompt %}<|assistant|><think>{% endif %}")
    asked = [Request("b", f"q{i}", 0, True, 0, "word " * i) for i in (3, 9, 5)]
    rooms = []
    for kind in (HFBackend, VLLMBackend):
        backend, plain = kind(str(folder), chat=True), kind(str(folder), chat=False)
        assert isinstance(backend, PromptingBackend)
        assert (backend.thinking_end(), plain.thinking_end()) == (END, None)
        rooms.append(backend.room(asked))
        assert backend.room([]) is None
    assert rooms[0] == rooms[1] == Room(4096, rooms[0].prompt_tokens, "question q9 of b")
    assert rooms[0].tokens == 4096 - rooms[0].prompt_tokens > 0


def test_a_server_shows_neither():
    backend = OpenAIBackend("http://127.0.0.1:1/v1", "m", chat=True)
    assert not isinstance(backend, PromptingBackend)
    backend.close()
