"""A chat template whose end of turn is no end token gives a warning; one that fits, or has no end of turn, does not."""

import json
import shutil

import pytest
from preflight_runs import REPO, Runs, local_run
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from eval.backends.hf import HFBackend
from eval.backends.vllm import VLLMBackend
from openrlhf_mel import turns
from openrlhf_mel.settings.vllm_build import VERSION, Build

SPECIAL = [
    "<|pad|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "</s>",
    "<s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
]
ID = {token: i for i, token in enumerate(SPECIAL)}
LOOP = "{% for m in messages %}BODY{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
END = LOOP.replace("BODY", "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>")
CHATML = LOOP.replace("BODY", "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n")
LLAMA3 = LOOP.replace(
    "BODY", "{% set c = m.role + '\n\n' + m['content'] | trim + '<|eot_id|>' %}{{ bos_token ~ c if loop.first else c }}"
)
PHI3 = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
MISTRAL = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ ' [INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
PLAIN = LOOP.replace("BODY", "{{ m.role }}: {{ m.content }}\n\n")
TRACKED = LOOP.replace(
    "BODY",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}",
)
LOOSE = END.replace("<|end|>", " \n <|end|>  \n")
SPACED = """
{%- for m in messages %}
    {%- if m.role == "tool" %}
        {%- continue %}
    {%- endif %}
    {{- "<|" ~ m.role ~ "|>" ~ m.content ~ "<|end|>" ~ strftime_now("")  ~ "\\n" }}
{%- endfor %}
{{- {"a": "é<"} | tojson if false }}
"""
# The template, the tokenizer's eos_token, the generation configuration's ids (None: no such file).
FITS = {
    "the tokenizer's token": (END, "<|end|>", None), "the generation configuration's": (END, "<|pad|>", ID["<|end|>"]),
    "one of several": (LLAMA3, "<|endoftext|>", [ID["<|endoftext|>"], ID["<|eot_id|>"]]), "white space around": (LOOSE, "<|end|>", None),
    "chatml": (CHATML, "<|im_end|>", ID["<|endoftext|>"]), "eos_token by name": (MISTRAL, "</s>", None), "no special token": (PLAIN, "</s>", None),
    "the end and another": (PHI3, "<|endoftext|>", [ID["<|endoftext|>"], ID["<|end|>"]]), "tracked": (TRACKED, "<|end|>", None),
    "no template": (None, "<|end|>", None), "a template that fails": ("{{ raise_exception('no') }}", "<|pad|>", None), "no template at all": ("{% for", "<|pad|>", None),
    "answers left out": ("{{ messages[0].content }}<|end|>", "<|pad|>", None), "white space control": (SPACED, "<|end|>", None),
}  # fmt: skip
ENDLESS = {
    "end": (END, "<|pad|>", ID["<|pad|>"], "<|end|>", "<|pad|>"), "a base model's chatml": (CHATML, "<|endoftext|>", ID["<|endoftext|>"], "<|im_end|>", "<|endoftext|>"),
    "llama": (LLAMA3, "<|endoftext|>", [ID["<|endoftext|>"]], "<|eot_id|>", "<|endoftext|>"), "another behind": (PHI3, "<|endoftext|>", None, "<|end|>", "<|endoftext|>"),
    "white space around": (LOOSE, "</s>", None, "<|end|>", "</s>"), "tracked": (TRACKED, "</s>", None, "<|end|>", "</s>"), "no end at all": (END, None, None, "<|end|>", "no token"),
    "two other ends": (END, "</s>", [ID["<|pad|>"], ID["</s>"]], "<|end|>", "</s>, <|pad|>"), "an unknown id": (END, "</s>", 77, "<|end|>", "</s>, id 77"),
    "white space control": (SPACED, "<|pad|>", None, "<|end|>", "<|pad|>"),
}  # fmt: skip


def save(folder, template, eos, ids):
    """Save a tokenizer with transformers."""
    vocabulary = Tokenizer(models.WordLevel({**ID, "[UNK]": len(ID)}, unk_token="[UNK]"))
    names = {"eos_token": eos, "bos_token": "<s>", "extra_special_tokens": SPECIAL}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, **{k: v for k, v in names.items() if v})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if ids is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return tokenizer


@pytest.mark.parametrize("name", FITS)
def test_nothing_is_said_where_all_fits(tmp_path, name):
    save(tmp_path, *FITS[name])
    assert turns.of_folder(tmp_path) is None


@pytest.mark.parametrize("name", ENDLESS)
def test_both_tokens_are_named(tmp_path, name):
    *model, turn, ends = ENDLESS[name]
    save(tmp_path, *model)
    assert f"ends a turn with {turn}, generation ends at {ends}: " in turns.of_folder(tmp_path)


@pytest.mark.parametrize("template", [END, CHATML, LLAMA3, PHI3, MISTRAL, PLAIN, TRACKED, LOOSE, SPACED])
def test_a_template_is_rendered_as_transformers_does(tmp_path, template):
    tokenizer = save(tmp_path, template, "</s>", None)
    messages = [{"role": "user", "content": turns._QUESTION}, {"role": "assistant", "content": turns._ANSWER}]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert turns._rendered(template, config) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_older_ways_of_saving(tmp_path):
    """Covers named templates, tokens as objects, special tokens in the configuration, the EOS in the model's config."""
    config = {
        "chat_template": [{"name": "tool_use", "template": PLAIN}, {"name": "default", "template": END}],
        "eos_token": {"content": "</s>", "lstrip": False}, "added_tokens_decoder": {str(i): {"content": t, "special": True} for t, i in ID.items()},
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert "ends a turn with <|end|>, generation ends at </s>: " in turns.of_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": ID["<|end|>"]}))
    assert turns.of_folder(tmp_path) is None
    (tmp_path / "generation_config.json").write_text("{}")  # overrides the model's own
    assert "generation ends at </s>: " in turns.of_folder(tmp_path)
    del config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    assert turns.of_folder(tmp_path) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "3", '{"chat_template": 3}', '{"chat_template": "x", "added_tokens_decoder": [1]}']
)
def test_odd_files_are_the_tokenizers_to_tell(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    assert turns.of_folder(tmp_path) is None


def spoil(folder):
    """Give the built-in model an end token that its template does not use."""
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 0}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|pad|>"}))
    return folder


def test_preflight_warns_where_the_template_is_used(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run, text = Runs(tmp_path, capsys), local_run(tmp_path)
    chat = "--data.apply_chat_template"

    def told(*flags):
        code, report = run(*flags, text=text, skip=False)
        assert code == 0, report
        return [w for w in report["warnings"] if "ends a turn" in w]

    assert told(chat) == []
    spoil(tmp_path / "model")
    assert told() == []
    [said] = told(chat)
    assert said.startswith(f"{chat}: {tmp_path}/model: ") and "with <|end|>, generation ends at <|pad|>" in said


@pytest.mark.parametrize("backend", [HFBackend, VLLMBackend])
def test_evaluation_warns_in_chat(tmp_path, capsys, monkeypatch, backend):
    monkeypatch.setattr(
        "openrlhf_mel.settings.vllm_build.installed", lambda: Build("vllm", VERSION)
    )  # neither vLLM nor a GPU is needed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    folder = shutil.copytree(REPO / "data" / "toy" / "model", tmp_path / "model")

    def told(chat):
        backend(str(folder), chat=chat).close()
        return capsys.readouterr().err

    assert told(True) == ""
    spoil(folder)
    assert told(False) == ""
    assert told(True).startswith(f"warning: --model {folder}: the chat template ends a turn with <|end|>, ")
