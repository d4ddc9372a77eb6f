"""engine_context.py gives the length that vLLM derives from a config.json, and refuses what vLLM refuses."""

import json
import os
import subprocess
import sys

import pytest

from eval.backends.engine_context import engine_context
from openrlhf_mel.settings import vllm_build

pytestmark = [
    pytest.mark.release,  # a new vLLM comes with a release
    pytest.mark.timeout(180),
    pytest.mark.skipif(vllm_build.installed() is None, reason="needs vLLM, which is not installed"),
]

SMALL = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 400, "max_position_embeddings": 32768,
}  # fmt: skip
SCALINGS = {
    "qwen3": {},
    "as written today": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    "yarn, lengths that disagree": {
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8192}
    },
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 1.5}},
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }
    },
    "a second length": {"max_seq_len": 4096},
    "model_max_length": {"model_max_length": 16384},
}  # fmt: skip
_SCRIPT = """
import json, sys
from vllm.config import ModelConfig
print(json.dumps([ModelConfig(model=folder, dtype="float32").max_model_len for folder in sys.argv[1:]]))
"""


def test_the_length_is_vllms(tmp_path):
    folders = []
    for number, more in enumerate(SCALINGS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(SMALL | more))
        folders.append(str(folder))
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *folders], capture_output=True, text=True, timeout=170, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = dict(zip(SCALINGS, json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert found == {name: engine_context(SMALL | more) for name, more in SCALINGS.items()}
