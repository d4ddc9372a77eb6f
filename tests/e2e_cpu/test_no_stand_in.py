"""With real vLLM no process of a run imports a stand-in for it, neither the driver nor Ray's workers."""

import os
import sys
from pathlib import Path

import pytest

from openrlhf_mel.settings import vllm_build

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]
REPO = Path(__file__).resolve().parents[2]
ASK = """
import sys
import ray
from openrlhf_mel import launch
from openrlhf_mel.settings import resolve

chosen = resolve.resolve("slurm/configs/train/smoke.yaml", ["--mel.cpu_engine=ENGINE"])
launch.prepare_process(chosen.mel)
launch.start_ray(chosen)

def look():
    put = "vllm" in sys.modules  # before anything of a run is imported
    import openrlhf.trainer.ray.vllm_engine
    return put, getattr(sys.modules["vllm"], "__file__", None), sys.modules["vllm"].__version__

print("found", *look(), *ray.get(ray.remote(look).remote()), flush=True)
"""


@pytest.mark.parametrize("engine", ["vllm", pytest.param("transformers", marks=pytest.mark.release)])
def test_what_has_the_name_vllm(command, engine):
    if engine == "vllm" and not (vllm_build.installed() and vllm_build.installed().cpu):
        pytest.skip("needs vLLM's CPU build: make setup")
    done = command(
        sys.executable, "-c", ASK.replace("ENGINE", engine), limit=200, env=os.environ | {"PYTHONPATH": str(REPO)}
    )
    assert done.returncode == 0, done.stderr
    found = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("found "))
    for put, file, version in (found[:3], found[3:]):
        assert put == str(engine == "transformers") and version == vllm_build.VERSION
        assert (file == "None") == (engine == "transformers")
        assert file == "None" or Path(file).parts[-2:] == ("vllm", "__init__.py")
