"""eval/backends/engine_context.py: vLLM's rule for a model's length; tests/contract compares it with vLLM itself."""

import math

import pytest

from eval.backends.engine_context import engine_context

pytestmark = pytest.mark.timeout(60)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
CONFIGS = [
    ({"max_position_embeddings": 32768}, 32768),
    ({"text_config": {"max_position_embeddings": 20}}, 20),
    ({}, None),
    ({"max_position_embeddings": 500, "seq_length": 400}, 400),
    ({"n_positions": 1024}, 1024),
    ({"max_position_embeddings": 100, "model_max_length": 300}, 300),
    ({"max_position_embeddings": 100, "rope_scaling": YARN}, 400),
    ({"max_position_embeddings": 500, "rope_parameters": YARN}, 400),
    ({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 2.0}}, 200),
    ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "dynamic", "factor": 1.5}}, 150),
    ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
    ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "longrope", "factor": 8.0}}, 100),
    ({"max_position_embeddings": 100, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 100),
    ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "linear", "factor": None}}, 100),
    ({"max_position_embeddings": 100, "rope_parameters": {"full_attention": YARN, "other": {"rope_type": "default"}}}, 400),
    ({"max_position_embeddings": 100, "rope_scaling": YARN, "model_type": "gemma3_text"}, 100),
    ({"max_position_embeddings": "100"}, None),
    ({"max_position_embeddings": True}, None),
    ({"max_position_embeddings": -5}, None),
    ({"max_position_embeddings": 10**400}, None),
    ({"max_position_embeddings": 100, "model_max_length": "300"}, None),
    ({"text_config": "x", "max_position_embeddings": 100}, None),
    ({"max_position_embeddings": 100, "rope_scaling": "yarn"}, None),
    ({"max_position_embeddings": 100, "rope_scaling": ["yarn", 2]}, None),
    *(
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "linear", "factor": bad}}, None)
        for bad in ("4.0", "x", True, 0, -2.0, math.nan, math.inf, 1e308, [2], 0.001)
    ),
    *(
        ({"max_position_embeddings": 100, "rope_scaling": YARN | {"original_max_position_embeddings": bad}}, None)
        for bad in ("100", True, -1, 1.5, [100], 10**400)
    ),
    ({"max_position_embeddings": 100, "rope_parameters": {"full_attention": YARN | {"factor": "4"}}}, None),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_the_length_of_a_model(config, expected):
    assert engine_context(config) == expected
