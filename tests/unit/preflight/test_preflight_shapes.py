"""Shapes: parameter counts, compared with transformers' own models and with the total size of the hub's weights."""

import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight import shapes
from openrlhf_mel.preflight.shapes import Shape, bundled, find

# Bytes of the bf16 weights: `total_size` in the hub's model.safetensors.index.json, or the tensors of a single file.
PUBLISHED_BYTES = {
    "Qwen/Qwen3-0.6B-Base": 1_192_099_840,
    "Qwen/Qwen3-4B-Base": 8_044_936_192,
    "Qwen/Qwen3-8B-Base": 16_381_470_720,
    "Qwen/Qwen3-14B-Base": 29_536_614_400,
    "Qwen/Qwen2.5-7B": 15_231_233_024,
    "Qwen/Qwen2.5-32B": 65_527_752_704,
}
VARIANTS = {
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen3 with biases": {"model_type": "qwen3", "attention_bias": True, "head_dim": 48},
    "qwen2": {"model_type": "qwen2"},
}
SMALL = {
    "vocab_size": 1000, "hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip


def model(config: dict):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def config_of(name: str) -> dict:
    import yaml

    path = shapes.__file__.replace("shapes.py", "models.yaml")
    with open(path) as file:
        return yaml.safe_load(file)[name]


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_models_have_the_parameters_of_transformers_models(name):
    theirs = model(config_of(name))
    assert bundled()[name].parameters == sum(p.numel() for p in theirs.parameters())
    assert bundled()[name].tensors == len(list(theirs.parameters()))


@pytest.mark.parametrize("name", sorted(PUBLISHED_BYTES))
def test_bundled_models_have_the_size_of_the_published_weights(name):
    assert 2 * bundled()[name].parameters == PUBLISHED_BYTES[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_counts_as_transformers_does(name):
    config = SMALL | VARIANTS[name]
    shape = Shape.of(config, "config.json")
    parameters = dict(model(config).named_parameters())
    assert shape.parameters == sum(p.numel() for p in parameters.values())
    assert shape.tensors == len(parameters)
    embedding = parameters["model.embed_tokens.weight"].numel()
    assert shape.multiplied == shape.parameters - (0 if config["tie_word_embeddings"] else embedding)


def test_lora_counts_as_peft_does():
    from peft import LoraConfig, get_peft_model

    shape = Shape.of(SMALL | {"model_type": "qwen3", "head_dim": 32}, "config.json")
    for targets in ("all-linear", ["q_proj", "v_proj"]):
        adapted = get_peft_model(
            model(SMALL | {"model_type": "qwen3", "head_dim": 32}),
            LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"),
        )
        assert shape.lora(8, targets) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_kv_cache_of_a_token_by_hand():
    # Qwen3-8B: 36 layers x 8 heads x 128 x (key and value) x 2 bytes = 36 x 4096 = 147,456
    assert bundled()["Qwen/Qwen3-8B-Base"].kv_bytes() == 147_456
    assert bundled()["Qwen/Qwen3-8B-Base"].kv_bytes(2) == 73_728
    # With more GPUs than heads, each still holds one head.
    assert bundled()["Qwen/Qwen2.5-7B"].kv_bytes(8) == 57_344 / 4


def test_where_shapes_come_from(tmp_path):
    import json

    folder = tmp_path / "Qwen3-8B-Base"
    assert find(str(folder))[1] == "bundled shapes of Qwen/Qwen3-8B-Base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL | {"model_type": "qwen2"}))
    shape, source = find(str(folder))
    assert shape.hidden == 192 and source.endswith("config.json")
    shape, source = find("some/model", SMALL | {"model_type": "llama"})
    assert shape.hidden == 192 and "hub" in source
    assert find("some/model")[0] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model_type": "mixtral"}', "found model_type 'mixtral', expected one of qwen3"),
        ('{"model_type": "qwen3"}', "num_attention_heads is missing"),
        ("{", "not JSON"),
    ],
)
def test_a_config_that_tells_nothing_is_named(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    shape, why = find(str(tmp_path))
    assert shape is None and said in why and str(tmp_path) in why


def test_of_names_the_file():
    with pytest.raises(UserError, match=r"here: found model_type None"):
        Shape.of({}, "here")
