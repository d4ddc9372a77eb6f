"""Bad input gives one clear message on stderr and a nonzero exit code within a minute, and leaves nothing behind."""

import json
import os
import socket
import sys
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.timeout(220)


@pytest.fixture
def world(tmp_path):
    """Make a folder with a model that passes every check, two questions, and a configuration that names both."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    rows = [{"input": "1 + 1?", "label": "2"}, {"input": "1 + 2?", "label": "3"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "run.yaml").write_text(
        f"""
actor: {{model_name_or_path: {tmp_path}/model}}
data: {{prompt_dataset: {tmp_path}/train.jsonl, input_key: input, label_key: label, max_len: 256}}
rollout: {{batch_size: 2, n_samples_per_prompt: 2, max_new_tokens: 16}}
train: {{batch_size: 4}}
mel: {{runtime: cpu, cpu_engine: transformers}}
"""
    )
    return tmp_path


@pytest.fixture
def refused(world, command):
    def run(message, *flags, env=None, before="", limit=150):
        run_dir = world / "out"
        argv = [sys.executable, "-m", "openrlhf_mel.train"]
        if before:  # Python code that runs first, in the same process
            argv = [
                sys.executable,
                "-c",
                f"{before}\nimport sys; from openrlhf_mel.train import main; sys.exit(main())",
            ]
        done = command(
            *argv, "--config", world / "run.yaml", "--mel.run_dir", run_dir, *flags,
            limit=limit, env=os.environ | {"HF_HUB_OFFLINE": "1"} | (env or {}),
        )  # fmt: skip
        lines = done.stderr.strip().splitlines()
        assert done.returncode != 0
        # lines that Ray prints while it looks for a cluster do not count
        assert len([line for line in lines if "worker.py" not in line and "rpc_client" not in line]) <= 10, done.stderr
        assert "Traceback" not in done.stderr
        assert message in done.stderr, done.stderr
        assert done.stdout == ""
        assert not run_dir.exists()

    return run


def test_missing_model(refused, world):
    refused(f"--actor.model_name_or_path {world}/none: no such folder", f"--actor.model_name_or_path={world}/none")


@pytest.mark.slow
def test_folder_that_is_no_model(refused, world):
    refused("no config.json in this folder", f"--actor.model_name_or_path={world}")


def test_model_with_code_of_its_own(refused, world):
    (world / "model" / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    refused("auto_map", "--mel.enable=true")


@pytest.mark.parametrize("part", ["vision_config", "audio_config", "thinker_config"])
def test_model_of_more_than_text(world, part):
    """Refused even if its own code is trusted."""
    from openrlhf_mel.errors import UserError
    from openrlhf_mel.settings import inputs

    config = {"model_type": "qwen3_vl", part: {"hidden_size": 8}}
    (world / "model" / "config.json").write_text(json.dumps(config))
    settings = SimpleNamespace(
        upstream={"actor.model_name_or_path": str(world / "model")}, mel=SimpleNamespace(trust_remote_code=True)
    )
    with pytest.raises(UserError, match=f"model_name_or_path .*config.json has {part}: .*pass a text-only checkpoint"):
        inputs.check_model(settings)
    (world / "model" / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    inputs.check_model(settings)


@pytest.mark.slow
def test_missing_data(refused, world):
    refused(f"--data.prompt_dataset {world}/none.jsonl: no such file", f"--data.prompt_dataset={world}/none.jsonl")


@pytest.mark.slow
def test_data_without_the_configured_keys(refused):
    refused("--data.input_key question: ", "--data.input_key", "question")
    refused("has no such column; found input, label", "--data.label_key", "answer")


def test_empty_data(refused, world):
    (world / "train.jsonl").write_text("")
    refused(f"--data.prompt_dataset {world}/train.jsonl: ")


@pytest.mark.slow
def test_data_with_a_hole(refused, world):
    with open(world / "train.jsonl", "a") as file:
        file.write('{"input": "x", "label": null}\n')
    refused("row 3 has 'None' under 'label'; expected a reference answer")


@pytest.mark.slow
def test_data_whose_questions_are_no_texts(refused, world):
    (world / "train.jsonl").write_text('{"input": 7, "label": "7"}\n')
    refused("row 1 has '7' under 'input'; expected a question")


@pytest.mark.slow
def test_data_that_is_no_json(refused, world):
    (world / "train.jsonl").write_text("{ not json\n")
    refused("cannot be loaded")


def test_template_without_a_place(refused, world):
    from pathlib import Path

    from openrlhf_mel.prompts import DEFAULT_DIR

    folder = world / "templates"
    folder.mkdir()
    for file in Path(DEFAULT_DIR).iterdir():
        (folder / file.name).write_text(file.read_text())
    (folder / "replay.txt").write_text("only {{prompt}}")
    refused("replay.txt: the placeholder {{experience}} is missing", f"--mel.template_dir={folder}")


def test_option_out_of_range(refused):
    refused("--mel.replays: found 0, expected at least 1", "--mel.replays", "0")


def test_misspelt_option(refused):
    refused("unknown flag --mel.replay; did you mean mel.replays?", "--mel.replay", "2")


def test_unknown_algorithm(refused):
    refused("--mel.algorithm: found 'ppo', expected one of grpo", "--mel.algorithm", "ppo")


@pytest.mark.slow
def test_wrong_upstream_version(refused):
    before = "import importlib.metadata as m; v = m.version; m.version = lambda n: '0.9.9' if n == 'openrlhf' else v(n)"
    refused("openrlhf 0.9.9 is installed, expected 0.11.2", before=before)


def test_ray_that_cannot_start(refused):
    refused("RAY_ADDRESS=127.0.0.1:1: no Ray answers there", env={"RAY_ADDRESS": "127.0.0.1:1"})


@pytest.mark.slow
def test_ray_address_of_something_else(refused):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        refused("it did not answer as a Ray cluster", env={"RAY_ADDRESS": address}, limit=180)


def test_configuration_that_is_no_text(refused, world):
    (world / "run.yaml").write_bytes(b"\xff\xfe\x00")
    refused("run.yaml: not UTF-8")


def test_folder_under_a_file(refused, world):
    refused("run.yaml is a file; expected a folder", f"--mel.run_dir={world}/run.yaml/x")


def test_cuda_without_a_gpu(refused):
    refused("--mel.runtime cuda: torch sees no CUDA device", "--mel.runtime", "cuda")


def test_folder_of_another_run(world, command):
    (world / "out").mkdir()
    (world / "out" / "thesis.tex").write_text("mine")
    done = command(
        sys.executable, "-m", "openrlhf_mel.train", "--config", world / "run.yaml", "--mel.run_dir", world / "out",
        limit=150,
    )  # fmt: skip
    assert done.returncode == 2 and "not a run of this package" in done.stderr
    assert [p.name for p in (world / "out").iterdir()] == ["thesis.tex"]


def test_dry_run_needs_neither_model_nor_data_nor_ray(world, command):
    flags = ["--actor.model_name_or_path=no/model", "--data.prompt_dataset=none.jsonl", "--dry-run"]
    done = command(
        sys.executable, "-m", "openrlhf_mel.train", "--config", world / "run.yaml", *flags, limit=100,
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    resolved = json.loads(done.stdout)
    assert resolved["mel.algorithm"] == "grpo" and resolved["algo.advantage.estimator"] == "group_norm"
    assert resolved["actor.model_name_or_path"] == "no/model"


def test_help_shows_every_option(command):
    from openrlhf_mel.settings import mel_options

    done = command(sys.executable, "-m", "openrlhf_mel.train", "--help", limit=100)
    assert done.returncode == 0
    assert all(f"--mel.{name} " in done.stdout for name in mel_options.option_names())
    done = command(sys.executable, "-m", "openrlhf_mel.train", "--help-upstream", limit=100)
    assert "--rollout.n_samples_per_prompt" in done.stdout
