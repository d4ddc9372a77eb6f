"""Real DeepSpeed checkpoints of the toy model, saved by upstream's actor, hold the actor's live weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from e2e_cpu import saved
from e2e_cpu.saved import Save
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from eval import conversion
from eval.checkpoint_models import find
from eval.converted_models import materialise
from eval.selection import select
from openrlhf_mel.errors import UserError
from openrlhf_mel.run import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TOY = Path(__file__).resolve().parents[2] / "data" / "toy" / "model"
STAGES = {stage: (f"--ds.zero_stage={stage}",) for stage in (1, 2, 3)}
RANK, ALPHA = 4, 16
ONE = [f"ZeRO-{stage}, 1 rank" for stage in STAGES]
TWO = [f"ZeRO-{stage}, 2 ranks" for stage in STAGES]
LORA = [f"LoRA, ZeRO-{stage}" for stage in STAGES]
OTHERS = ["untied, ZeRO-3", "fp32", "ZeRO-3, sub-groups"]


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> Path:
    """The toy model with an untied output matrix."""
    folder = tmp_path_factory.mktemp("untied")
    model = AutoModelForCausalLM.from_pretrained(TOY, dtype=torch.bfloat16, tie_word_embeddings=False)
    torch.manual_seed(0)
    weight = model.model.embed_tokens.weight.detach()
    model.lm_head.weight = torch.nn.Parameter(weight + 0.01 * torch.randn_like(weight))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, untied) -> Path:
    """Make a run folder for every case."""
    folder = tmp_path_factory.mktemp("runs")
    saved.save_all(folder, [Save(name, TOY, STAGES[stage]) for name, stage in zip(ONE, STAGES, strict=True)], 1)
    saves = [Save(name, TOY, STAGES[stage]) for name, stage in zip(TWO, STAGES, strict=True)]
    saves += [Save(name, TOY, STAGES[stage], RANK) for name, stage in zip(LORA, STAGES, strict=True)]
    saves += [
        Save("untied, ZeRO-3", untied, STAGES[3]),
        Save("fp32", TOY, (*STAGES[2], "--mel.cpu_dtype=fp32")),
        Save("ZeRO-3, sub-groups", TOY, STAGES[3], sub_group=20_000),
    ]
    saved.save_all(folder, saves, 2)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """Return a function that copies a run's folder, for a test to damage."""

    def copy(name: str) -> Path:
        return shutil.copytree(runs / name, tmp_path / "run")

    return copy


def convert(run_dir: Path, folder: Path) -> Path:
    [checkpoint] = select(find(run_dir), "1")
    assert checkpoint.kind == "deepspeed" and checkpoint.problem is None
    return materialise(checkpoint, folder)


def seal_again(path: Path) -> None:
    """Seal a damaged checkpoint again: a seal does not record who wrote the files."""
    (path / checkpoint.SEAL).unlink()
    checkpoint.seal(path.rename(path.with_name(f"{path.name}{checkpoint.PARTIAL}")), 2, None, None)


def set_base(run_dir: Path, base: Path) -> None:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest["config"]["actor.model_name_or_path"] = str(base)
    (run_dir / "manifest.json").write_text(json.dumps(manifest))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def greedy(folder: Path) -> list[str]:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = []
    for question in ("Compute 28-5-2.", "Compute 3+4*2."):
        ids = tokenizer(question, return_tensors="pt")["input_ids"]
        texts.append(tokenizer.decode(model.generate(ids, do_sample=False, max_new_tokens=24)[0]))
    return texts


@pytest.mark.parametrize("name", [*ONE, *TWO, *OTHERS])
def test_weights_are_those_that_were_held(runs, tmp_path, name):
    path = convert(runs / name, tmp_path)
    found, held = weights_of(path), torch.load(runs / name / saved.LIVE)
    assert found.keys() == held.keys() and ("lm_head.weight" in found) == name.startswith("untied")
    for weight, value in held.items():
        assert found[weight].dtype == value.dtype and torch.equal(found[weight], value), weight
    assert {value.dtype for value in held.values()} == {torch.float32 if name == "fp32" else torch.bfloat16}
    before = weights_of(TOY)
    assert any(not torch.equal(found[weight].bfloat16(), value) for weight, value in before.items())  # it has learned


@pytest.mark.parametrize("name", [*ONE, *TWO, *OTHERS])
def test_says_what_upstreams_own_export_says(runs, tmp_path, name):
    path, own = convert(runs / name, tmp_path), runs / name / "model"
    assert greedy(path) == greedy(own)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (path, own)]
    assert configs[0] == configs[1] | {"use_cache": configs[0]["use_cache"]}
    for file in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (path / file).read_bytes() == (own / file).read_bytes()


@pytest.mark.parametrize("name", LORA)
def test_lora_is_merged(runs, tmp_path, name):
    """The merged weights are W + alpha/r B A in fp32, rounded once, both from the shards and from upstream's export."""
    found, held = weights_of(convert(runs / name, tmp_path)), torch.load(runs / name / saved.LIVE)
    adapted = 0
    for weight, value in found.items():
        stem = f"base_model.model.{weight.removesuffix('weight')}"
        if f"{stem}weight" in held:
            assert torch.equal(value, held[f"{stem}weight"]), weight
            continue
        base, a, b = (held[f"{stem}{part}.weight"] for part in ("base_layer", "lora_A.default", "lora_B.default"))
        expected = (base.float() + ALPHA / RANK * (b.float() @ a.float())).bfloat16()
        assert torch.equal(value, expected) and not torch.equal(value, base), weight
        adapted += 1
    assert adapted == 4 * 7  # layers x linear maps per layer
    [final] = select(find(runs / name), "last")
    assert final.kind == "adapter"
    merged = materialise(final, tmp_path)
    exported = weights_of(merged)
    assert exported.keys() == found.keys() and all(torch.equal(exported[w], value) for w, value in found.items())
    assert greedy(merged) == greedy(tmp_path / "global_step1")


@pytest.mark.parametrize("gone", ["all", "tokenizer"])
def test_a_base_model_that_is_gone(run, tmp_path, gone):
    """Configuration and tokenizer then come from the final model."""
    folder, base = run(TWO[1]), tmp_path / "base"
    set_base(folder, base)
    if gone == "tokenizer":
        base.mkdir()
        shutil.copy(TOY / "config.json", base)
    path = convert(folder, tmp_path / "out")
    assert (path / "tokenizer.json").read_bytes() == (TOY / "tokenizer.json").read_bytes()
    shutil.rmtree(folder / "model")
    with pytest.raises(UserError, match=r"the run's base model is needed.*base: .*model: "):
        convert(folder, tmp_path / "again")


def test_an_adapters_base_model_that_is_gone(run, tmp_path):
    folder = run(LORA[1])
    set_base(folder, tmp_path / "base")
    with pytest.raises(UserError, match=r"base: the base model of the LoRA adapter .*model cannot be read"):
        materialise(find(folder)[-1], tmp_path / "out")
    assert weights_of(convert(folder, tmp_path / "out")).keys() == weights_of(TOY).keys()  # the shards hold all weights


def test_another_base_model_is_refused_by_the_weights_names(run, tmp_path):
    folder, base = run(TWO[2]), shutil.copytree(TOY, tmp_path / "base")
    set_base(folder, base)
    config = json.loads((TOY / "config.json").read_text())
    for change, said in (
        (
            {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
            r"unexpected: model\.layers\.3\..* and 7 more",
        ),
        ({"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}, r"missing: model\.layers\.4\..* and 7 more"),
        ({"vocab_size": 401}, r"of another shape: .*embed_tokens\.weight \(400, 128\), expected \(401, 128\)"),
    ):
        (base / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=rf"global_step1: its weights are not those of the model in .*{said}"):
            convert(folder, tmp_path / "out")


def test_code_that_comes_with_a_model_is_not_run(run, tmp_path):
    folder, base = run(TWO[2]), shutil.copytree(TOY, tmp_path / "base")
    set_base(folder, base)
    config = json.loads((TOY / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "trap.Model"}}))
    (base / "trap.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    with pytest.raises(UserError, match=r"names Python code of its own \(auto_map\).*ckpt\.save_hf"):
        convert(folder, tmp_path / "out")
    (base / "config.json").write_text(json.dumps(config | {"model_type": "trap", "auto_map": {"AutoConfig": "trap.C"}}))
    shutil.rmtree(folder / "model")
    with pytest.raises(UserError, match="cannot be read"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_wrappers_are_taken_off(prefix):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TOY))
    weights = {prefix + name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    fitted = conversion._fitted(weights, model, Path("checkpoint"), "base")
    assert fitted.keys() == model.state_dict().keys()
    assert fitted["lm_head.weight"] is weights[f"{prefix}model.embed_tokens.weight"]


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [TWO[1], TWO[2]])
@pytest.mark.parametrize("kind", ["model", "optim"])
def test_a_pickle_that_would_run_code_does_not(run, tmp_path, name, kind):
    folder = run(name)
    for file in (folder / "checkpoints" / "_actor" / "global_step1").glob(f"*_{kind}_states.pt"):
        content = torch.load(file, weights_only=False)
        torch.save(content | {"trap": Trap(tmp_path / "sprung")}, file)
    seal_again(file.parent)
    with pytest.raises(UserError, match=r"holds more than weights and plain data.*posix\.mkdir.*zero_to_fp32\.py"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "sprung").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("name", TWO)
def test_shards_that_do_not_belong_together(run, runs, tmp_path, name):
    """The seal cannot detect these: other content, or a shard from a run with another number of ranks."""
    folder = run(name)
    shards = sorted((folder / "checkpoints" / "_actor" / "global_step1").glob("*_optim_states.pt"))
    torch.save({"optimizer_state_dict": {}}, shards[0])
    seal_again(shards[0].parent)
    with pytest.raises(UserError, match="global_step1: cannot be put together"):
        convert(folder, tmp_path / "out")
    alone = runs / name.replace("2 ranks", "1 rank") / "checkpoints" / "_actor" / "global_step1"
    for shard in shards:
        shutil.copy(next(alone.glob("*_optim_states.pt")), shard)
    seal_again(shards[0].parent)
    with pytest.raises(UserError, match=r"cannot be put together.*Expected 1 of .*found 2"):
        convert(folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", [LORA[1], LORA[2]])
def test_an_adapter_that_lacks_a_weight(run, tmp_path, name):
    folder = run(name)
    path = next((folder / "model").glob("adapter_model.*"))
    weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    lost = next(weight for weight in weights if "layers.2" in weight and "up_proj" in weight)
    weights = {weight: value for weight, value in weights.items() if weight != lost}
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    with pytest.raises(UserError, match=r"its weights are not those of the model in .*missing: .*layers\.2.*up_proj"):
        materialise(find(folder)[-1], tmp_path / "out")


def test_a_disk_without_room(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(UserError, match=r"0\.0 GB are needed and 0\.0 GB free; make room"):
        convert(runs / TWO[0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_quiet(runs, tmp_path, capfd):
    convert(runs / TWO[0], tmp_path)
    materialise(find(runs / LORA[0])[-1], tmp_path)
    assert capfd.readouterr() == ("", "")
