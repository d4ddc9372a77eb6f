"""Host memory: figures of the presets, figures computed by hand, and DeepSpeed's pieces."""

import dataclasses
import math
import re
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preflight_runs import Runs

from openrlhf_mel.preflight import host
from openrlhf_mel.preflight.memory import GIB, MemoryPlan
from openrlhf_mel.preflight.shapes import bundled
from openrlhf_mel.settings import flags

PRESETS = Path(__file__).resolve().parents[3] / "slurm" / "configs" / "train"
MIB = 2**20


def plan(name: str = "Qwen/Qwen3-14B-Base", **changes) -> MemoryPlan:
    shape = bundled()[name]
    base = {
        "shape": shape, "card": 80 * GIB, "ranks": 8, "trained": shape.parameters, "policy_tokens": 1, "log_prob_tokens": 1,
        "nll_tokens": 1, "sequence": 1, "row": 1, "stage": 3, "shared": True, "engine_sleeps": True, "policy_sleeps": True,
    }  # fmt: skip
    return MemoryPlan(**base | changes)


# GiB per node. The calculation behind them cuts 8B's and 32B's pieces at exactly 1e9 elements: 3 GiB more.
@pytest.mark.parametrize(
    ("preset", "gib"),
    [("qwen3-14b", 556), ("qwen3-8b", 282), ("qwen2.5-7b", 326), ("qwen2.5-32b", 339), ("qwen3-4b", 136)],
)
def test_presets_and_what_their_heads_say(tmp_path, capsys, preset, gib):
    text = (PRESETS / f"{preset}.yaml").read_text()
    nodes = re.search(r"num_nodes: (\d+)", text)[1]
    _, report = Runs(tmp_path, capsys)("--nodes", nodes, "--gpus-per-node", 8, text=text, node=False)
    assert report["host"]["offloaded"] == pytest.approx(gib, rel=0.02)
    totals = {name: sum(parts.values()) for name, parts in report["gpus"][0]["moments"].items()}
    said = re.search(r"of a GPU (\d+) GiB in the rollout, (\d+) elsewhere; (\d+) GiB of a node", text)
    rollout = totals.pop("rollout")
    assert [round(rollout), round(max(totals.values())), round(report["host"]["offloaded"])] == [
        *map(int, said.groups())
    ]


def test_a_policy_by_hand():
    # Two pieces of matrices, of 1.0 and 0.8 G elements, 4 bytes each: 3.7 and 3.1 GiB, rounded to 4 GiB; norms 53,120 x
    # 4 bytes. All gradients, 1.85 G x 2 bytes: 3.4 GiB, rounded to 4.
    it = plan(engine_sleeps=False)
    assert host.sub_groups(it) == [1_005_568_000, 840_417_280, 53_120]
    assert host.host_bytes(it, 8)["offloaded"] == 8 * (3 * (4 * GIB + 4 * GIB + 2**18) + 4 * GIB)
    # ZeRO-2: one piece for all matrices, and no gradients
    two = dataclasses.replace(it, stage=2)
    assert host.sub_groups(two) == [1_845_985_280, 53_120]
    assert host.host_bytes(two, 8) == {"loading": 8 * 2 * it.trained, "offloaded": 8 * 3 * (8 * GIB + 2**18)}


def test_an_offloaded_adam_by_hand():
    it = plan("Qwen/Qwen3-4B-Base", engine_sleeps=False, offload=True)  # 502,784,000 and 24,512 elements a rank
    elements = 502_784_000 + 24_512
    # Page-locked fp32 and bf16 gradients: 1.9 GiB, rounded to 2; 98,048 bytes, to 128 KiB; 1 GiB. Else 12 bytes each.
    assert host.host_bytes(it, 1)["offloaded"] == 2 * GIB + 2**17 + GIB + 12 * elements
    two = host.host_bytes(dataclasses.replace(it, stage=2, accumulates=False), 1)["offloaded"]
    assert two == 2 * (2 * GIB + 2**17) + GIB + 2**16 + 8 * elements


def test_an_engine_by_hand():
    # MiB of a layer: q, k, v 70, output 50, gate and up 340, down 170; embeddings 1483.75 twice, in steps of 2.
    of_layer = (128 + 64 + 512 + 256) * MIB
    blocks = [host.page_locked(size) for size in host.segments(host.engine_tensors(plan()))]
    assert sum(blocks) == 40 * of_layer + 2 * 2048 * MIB + 2 * MIB  # the norms, 0.8 MiB
    # Tensor parallel 4: 17.5, 12.5, 135, 67.5, 371.25
    four = plan("Qwen/Qwen2.5-32B", engine_ranks=4)
    blocks = [host.page_locked(size) for size in host.segments(host.engine_tensors(four))]
    assert sum(blocks) == 64 * (32 + 16 + 256 + 128) * MIB + 2 * 512 * MIB + 2 * MIB
    assert host.host_bytes(plan(policy_sleeps=False), 8)["offloaded"] == 8 * (40 * of_layer + 4098 * MIB)
    awake = plan(policy_sleeps=False, engine_sleeps=False)
    assert host.host_bytes(awake, 8)["offloaded"] == 0


def test_small_tensors_share_segments():
    sizes = [MIB, MIB, MIB, 9 * MIB, 9 * MIB, 9 * MIB, 10 * MIB, 11 * MIB]
    assert list(host.segments(sizes)) == [2 * MIB, 2 * MIB, 20 * MIB, 20 * MIB, 10 * MIB, 12 * MIB]


@given(st.integers(1, 2**45))
def test_a_block_is_the_next_power_of_two(size):
    found = host.page_locked(size)
    assert found.bit_count() == 1 and size <= found < 2 * size


@pytest.mark.parametrize("name", sorted(bundled()))
def test_pieces_are_those_that_deepspeed_makes(name):
    """Compared on the model's own parameters, grouped by upstream."""
    torch = pytest.importorskip("torch")
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3").DeepSpeedZeroOptimizer_Stage3
    import yaml
    from transformers import AutoConfig, AutoModelForCausalLM

    config = yaml.safe_load((Path(host.__file__).with_name("models.yaml")).read_text())[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    group = runpy.run_path(str(flags.source_path("utils/deepspeed/deepspeed_utils.py")))[
        "get_optimizer_grouped_parameters"
    ]
    for size in (host._SUB_GROUP, 100_000_000):
        pieces = []
        for one in group(model, 0.0):
            for parameter in one["params"]:
                share = math.ceil(parameter.numel() / 8)
                parameter.partition_numel = partial(int, share)
            made = stage3._create_fp16_sub_groups(SimpleNamespace(sub_group_size=size), one["params"])
            pieces += [sum(p.partition_numel() for p in piece) for piece in made]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host, "_SUB_GROUP", size)
            assert host.sub_groups(plan(name)) == pieces
