"""The death of a rollout engine ends the run soon, with the first cause in the output and no process left."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from openrlhf_mel.settings import vllm_build

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
REPO = Path(__file__).resolve().parents[2]
AGENT = Path(__file__).with_name("dying_agent.py")
TOY = f"""
actor: {{model_name_or_path: {REPO}/data/toy/model, adam: {{lr: 1e-4}}}}
data: {{prompt_dataset: {REPO}/data/toy/train.jsonl, input_key: input, label_key: label, max_len: 384, max_samples: 32}}
rollout: {{batch_size: 8, n_samples_per_prompt: 8, max_new_tokens: 64, micro_batch_size: 32}}
train: {{batch_size: 64, micro_batch_size: 32, agent_func_path: {AGENT}}}
eval: {{dataset: eval.jsonl, steps: 1, n_samples_per_prompt: 2, temperature: 0.5}}
mel: {{template_dir: {REPO}/data/toy/templates, max_new_tokens: 96, cpu_dtype: fp32}}
"""
MOST_S = 60  # seconds from the death to the run's end
KILLED = r"killed|SIGKILL"


def below(run_dir: Path) -> list[list[str]]:
    """Return the command lines of a run's processes, also Ray's and vLLM's, found by a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MEL_TEST_RUN") == str(run_dir):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


DEATHS = [
    ("transformers", "import in creation", "No module named 'a_package_that_is_not_there'"),
    ("transformers", "actor in rollout", KILLED),
    ("transformers", "actor in hand-over", KILLED),
    ("transformers", "actor in M", KILLED),
    ("vllm", "cache in creation", "ValueError: .*cache"),
    ("vllm", "core in rollout", KILLED),
    ("vllm", "core in hand-over", KILLED),
    ("vllm", "shape in hand-over", r"rollout engine 1 of 1 died: AssertionError: assert .*shape"),
    ("vllm", "core in M", KILLED),
    ("vllm", "core in evaluation", KILLED),
]
OFTEN = ("import in creation",)


def death(engine, way, says):
    mark = pytest.mark.slow if way in OFTEN else pytest.mark.release
    return pytest.param(engine, way, says, id=f"{engine}-{way}", marks=mark)


@pytest.mark.parametrize(("engine", "way", "says"), [death(*d) for d in DEATHS])
def test_the_run_ends_and_says_why(tmp_path, engine, way, says):
    if engine == "vllm" and not (vllm_build.installed() and vllm_build.installed().cpu):
        pytest.skip("needs vLLM's CPU build: make setup")
    held_out = (REPO / "data" / "toy" / "test.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "eval.jsonl").write_text("".join(held_out[:4]))
    (tmp_path / "run.yaml").write_text(TOY.replace("eval.jsonl", str(tmp_path / "eval.jsonl")))
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "openrlhf_mel.train", "--config", tmp_path / "run.yaml", "--mel.run_dir", out]
    died = tmp_path / "died"
    own = {"MEL_TEST_DEATH": way, "MEL_TEST_DIED": str(died), "MEL_TEST_RUN": str(out)}
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | own
    done = subprocess.run(
        [*argv, f"--mel.cpu_engine={engine}"], env=environment, cwd=REPO, capture_output=True, text=True, timeout=240
    )
    assert died.exists() and done.returncode == 1, done.stdout + done.stderr
    assert time.time() - died.stat().st_mtime < MOST_S
    log = (out / "logs" / "train.log").read_text()
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and re.search(says, errors[0]), f"{errors}\n{log[-6000:]}"
    assert "Traceback" not in done.stderr
    for _ in range(10):
        if not below(out):
            break
        time.sleep(1)
    assert not below(out)
