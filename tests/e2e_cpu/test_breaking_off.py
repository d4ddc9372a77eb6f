"""Requests of real engines that are broken off end at once, in the actor and in the engine; those of Ms do not queue."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from openrlhf_mel.settings import vllm_build

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_cancelled_requests_are_aborted_and_counted(command, tmp_path, engine):
    if engine == "vllm" and not (vllm_build.installed() and vllm_build.installed().cpu):
        pytest.skip("needs vLLM's CPU build: make setup")
    script = [sys.executable, "-m", "e2e_cpu.breaking_off", engine, tmp_path / "run"]
    path = {"PYTHONPATH": f"{REPO}:{REPO / 'tests'}", "HF_HUB_OFFLINE": "1"}
    done = command(*script, limit=250, env=os.environ | path)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.removeprefix("FOUND "))
    assert found["cancelled"] == 48 + 16 and found["unfinished"] == [0, 0] and found["seconds"] < 10
    # no response was delivered: all that was generated was in vain
    assert 0 < found["lost"] == found["counted"] == found["counted later"]
    assert all(found["generates"])
    overtaken = int(re.search(r"^OVERTAKEN (\d+)$", done.stdout, re.M)[1])
    # vLLM takes 128 requests at a time, and the next ones in their order: M would end among the last
    assert overtaken > 64 or engine == "transformers"
