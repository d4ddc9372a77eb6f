"""Every name that MEL uses from OpenRLHF, DeepSpeed and transformers still is as MEL expects."""

import ast
import dataclasses
import importlib.metadata
import inspect
import json
import re
import sys

import pytest

from openrlhf_mel.cpu import standins
from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import flags
from openrlhf_mel.upstream import contract

pytestmark = pytest.mark.timeout(120)


def test_installed_openrlhf_fits(command):
    """Runs in a separate process: in this one another test may have replaced upstream's classes with MEL's."""
    code = """
import torch
from openrlhf_mel.cpu import standins
if not torch.cuda.is_available():
    standins.install()
from openrlhf_mel.upstream import contract
contract.check_version()
print("DIFFERENCES", contract.differences())
"""
    done = command(sys.executable, "-c", code, limit=110)
    assert done.returncode == 0, done.stderr
    assert "DIFFERENCES []" in done.stdout


def test_differences_are_named(monkeypatch):
    before = contract.differences()
    monkeypatch.setitem(contract.NAMES, "openrlhf.models.PolicyLoss.forward", ("self", "log_probs"))
    monkeypatch.setitem(contract.NAMES, "openrlhf.models.NoSuchLoss", ("*",))
    lines = [line for line in contract.differences() if line not in before]
    assert len(lines) == 2
    assert any("PolicyLoss.forward: takes (self, log_probs, old" in line for line in lines)
    assert any("openrlhf.models.NoSuchLoss: not there" in line for line in lines)


@pytest.mark.parametrize("method", contract.ATTRIBUTES)
def test_an_attribute_that_is_gone_is_named(monkeypatch, method):
    read = inspect.getsource
    for attribute in contract.ATTRIBUTES[method]:

        def renamed(target, attribute=attribute):
            return re.sub(rf"\bself\.{attribute}\b", "self.renamed", read(target))

        monkeypatch.setattr(contract.inspect, "getsource", renamed)
        assert f"{method}: does not set {attribute}" in contract.differences()
        monkeypatch.setattr(contract.inspect, "getsource", read)


def test_every_attribute_that_is_read_of_upstreams_trainers_is_in_the_contract():
    from openrlhf_mel.upstream import async_trainer, internalizer, policy_actor, trainer

    held = {name for names in contract.ATTRIBUTES.values() for name in names}
    held |= {name.rsplit(".", 1)[1] for name in contract.NAMES}
    modules = (async_trainer, internalizer, trainer, policy_actor)
    nodes = [node for module in modules for node in ast.walk(ast.parse(inspect.getsource(module)))]
    used = [
        (node.attr, type(node.ctx))
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "self.strategy", "self._strategy")
    ]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {name for name, kind in used if kind is ast.Store}
    assert {name for name, kind in used if kind is ast.Load} - own - held == set()


def test_another_version_is_refused_with_what_differs(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.12.0")
    monkeypatch.setitem(contract.NAMES, "openrlhf.models.NoSuchLoss", ("*",))
    with pytest.raises(UserError, match=r"openrlhf 0\.12\.0 is installed, expected 0\.11\.2") as error:
        contract.check_version()
    assert "NoSuchLoss: not there" in str(error.value) and len(str(error.value).splitlines()) <= 10


def test_missing_openrlhf_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="openrlhf is not installed"):
        contract.check_version()


def test_flags_are_those_of_upstreams_own_parser(command):
    """Compare the parser that upstream builds when it runs with the one read from its source."""
    code = """
import argparse, json, runpy, sys
from openrlhf_mel.cpu import standins
standins.install()
def dump(self, *args):
    flags = {s: [a.dest, str(a.type), repr(a.nargs), repr(a.default), repr(a.choices)]
             for a in self._actions for s in a.option_strings if "run_name" not in s}
    print("FLAGS" + json.dumps(flags))
    raise SystemExit(0)
argparse.ArgumentParser.parse_args = dump
sys.argv = ["x"]
runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
"""
    done = command(sys.executable, "-c", code, limit=100)
    line = next(line for line in done.stdout.splitlines() if line.startswith("FLAGS"))
    theirs = json.loads(line.removeprefix("FLAGS"))
    ours = {
        s: [a.dest, str(a.type), repr(a.nargs), repr(a.default), repr(a.choices)]
        for a in flags.parser()._actions
        for s in a.option_strings
        if "run_name" not in s
    }
    assert len(theirs) > 100 and ours == theirs


def test_the_cpu_engine_answers_every_call_that_upstream_makes():
    from openrlhf.trainer.ray import vllm_engine

    from openrlhf_mel.cpu import engines
    from openrlhf_mel.cpu.transformers_engine import TransformersEngine

    upstream = vllm_engine.RolloutRayActor.__ray_metadata__.modified_class
    gpu_only = {"init_process_group", "update_weight_cuda_ipc"}  # RayBroadcast replaces them
    for name, method in inspect.getmembers(upstream, inspect.isfunction):
        if name.startswith("_") or name in gpu_only:
            continue
        ours, theirs = (
            [p for p in inspect.signature(m).parameters if p != "_ray_trace_ctx"]
            for m in (getattr(TransformersEngine, name), method)
        )
        assert ours == theirs, name
    create = list(inspect.signature(engines.creating("transformers", "bfloat16")).parameters)
    theirs = list(inspect.signature(vllm_engine.create_vllm_engines).parameters)
    assert [p for p in create if p != "args"] == [p for p in theirs if p in create]


def test_the_sampling_stand_in_has_what_upstream_and_mel_set():
    from openrlhf.trainer.ppo_utils import samples_generator

    from openrlhf_mel.upstream import ray_engine

    source = inspect.getsource(samples_generator.SamplesGenerator._dispatch_prompts_to_vllm)
    source += inspect.getsource(ray_engine._params)
    for field in dataclasses.fields(standins.SamplingParams):
        assert f"{field.name}=" in source


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_models_compute_logits_at_chosen_positions(family):
    import importlib

    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    model = getattr(module, f"{family.capitalize()}ForCausalLM")
    assert {"logits_to_keep", "position_ids", "attention_mask"} <= set(inspect.signature(model.forward).parameters)


def test_deepspeeds_names():
    import deepspeed
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    assert deepspeed.__version__ == "0.19.6"
    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
    for name in (
        "set_gradient_accumulation_boundary", "gradient_accumulation_steps", "zero_use_cpu_optimizer",
        "zero_optimization_stage", "autotp_size",
    ):  # fmt: skip
        assert callable(getattr(DeepSpeedEngine, name))
    assert "self.basic_optimizer = " in inspect.getsource(DeepSpeedEngine)
    for optimizer in (DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3):
        assert "self.averaged_gradients = {}" in inspect.getsource(optimizer.__init__)
        assert hasattr(optimizer, "loss_scale")
        assert "self.dp_process_group = " in inspect.getsource(optimizer.__init__)


def test_pefts_names():
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer, layer

    assert issubclass(layer.Linear, LoraLayer)
    assert list(inspect.signature(layer.Linear.get_delta_weight).parameters) == ["self", "adapter"]
    for name in ("get_base_layer", "active_adapter"):
        assert hasattr(LoraLayer, name)
    assert callable(PeftModel.get_base_model)
