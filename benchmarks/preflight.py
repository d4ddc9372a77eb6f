"""Preflight's memory formulas, compared with what torch and DeepSpeed really keep, on a CPU.

    python -m benchmarks.preflight

Prints a Markdown table: the policy's activations that autograd keeps (transformers' own modules), the peak of a forward
and backward through upstream's own Actor and loss, and the size of DeepSpeed's checkpoints. Fails when one is off by
more than 5%.

Flash attention does not run here: a stand-in keeps the same tensors (q, k, v, output, log-sum-exp). Another stands in
for flash-attn's cross entropy, which upstream uses where flash-attn is installed.
"""

import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from openrlhf_mel.preflight import memory
from openrlhf_mel.preflight.shapes import Shape

torch.set_num_threads(1)  # more threads cost more in waiting than they gain
LIMIT = 0.05
TOKENS = 512
SIZES = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 768, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip


class KeepsAsFlash(torch.autograd.Function):
    """Attention with the memory use of flash attention. Its gradient is zero: only sizes matter here."""

    @staticmethod
    def forward(ctx, q, k, v):
        with torch.no_grad():
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        ctx.save_for_backward(q, k, v, out, torch.zeros(q.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, _, _ = ctx.saved_tensors
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)


class CrossEntropy(torch.autograd.Function):
    """Memory use of flash-attn's Triton cross entropy: it keeps the logits; its backward allocates as much again."""

    @staticmethod
    def forward(ctx, logits, labels):
        lse = torch.stack([row.logsumexp(-1) for row in logits])
        ctx.save_for_backward(logits, lse, labels)
        losses = lse - logits.gather(1, labels[:, None])[:, 0]
        return losses, torch.zeros_like(losses)

    @staticmethod
    def backward(ctx, grad, _):
        logits, lse, _ = ctx.saved_tensors
        made = torch.empty_like(logits)
        for i, row in enumerate(logits):
            made[i] = torch.exp(row - lse[i])
        return made, None


def model(family: str, vocabulary: int, **sizes: int) -> tuple[torch.nn.Module, Shape]:
    """A small model with the attention above, and its shape."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def attention(module, query, key, value, mask, **kwargs):
        return KeepsAsFlash.apply(query, key, value).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS["keeps_qkvo"] = attention
    ALL_MASK_ATTENTION_FUNCTIONS["keeps_qkvo"] = lambda *args, **kwargs: None
    config = SIZES | {"model_type": family, "vocab_size": vocabulary, "head_dim": 64} | sizes
    if family == "qwen2":
        del config["head_dim"]
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), dtype=torch.bfloat16, attn_implementation="keeps_qkvo"
    )
    return theirs.train(), Shape.of(config, family)


def kept_bytes(theirs: torch.nn.Module, tokens: int) -> int:
    """Return the bytes that autograd keeps of the decoder's forward, without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in theirs.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = theirs.model(
            input_ids=torch.ones(1, tokens, dtype=torch.long), position_ids=torch.arange(tokens)[None], use_cache=False
        )
    assert held is not None
    return sum(storages.values())


def plan(shape: Shape, **changes: object) -> memory.MemoryPlan:
    """Return a plan in which only activations and logits matter."""
    fixed = {"card": 1.0, "ranks": 1, "trained": 0, "log_prob_tokens": 0, "nll_tokens": 0, "sequence": 1, "row": 1}
    return memory.MemoryPlan(**{"shape": shape, "policy_tokens": TOKENS, **fixed, **changes})


def activations() -> Iterator[tuple[str, float, float]]:
    """Yield the bytes kept by autograd, with and without checkpointing."""
    for family in ("qwen3", "qwen2"):
        theirs, shape = model(family, 1000)
        last = (memory.FP32 + memory.BF16) * shape.hidden  # of the norm after the layers
        formula = (shape.layers * memory.layer_bytes(shape) + last) * TOKENS
        yield f"activations kept, {family}", kept_bytes(theirs, TOKENS), formula
        theirs.gradient_checkpointing_enable({"use_reentrant": False})
        formula = (shape.layers * memory.BF16 * shape.hidden + last) * TOKENS
        yield f"activations kept, {family}, checkpointing", kept_bytes(theirs, TOKENS), formula


def peaks() -> Iterator[tuple[str, float, float]]:
    """Yield the peak of a forward and backward through upstream's Actor."""
    from openrlhf_mel.cpu import standins

    standins.install()
    for name in ("flash_attn.ops", "flash_attn.ops.triton", "flash_attn.ops.triton.cross_entropy"):
        module = types.ModuleType(name)
        module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None, is_package=True), []
        module.cross_entropy_loss = CrossEntropy.apply
        sys.modules[name] = module
    from openrlhf.models import Actor

    for vocabulary, temperature, entropy, checkpointing, inference in (
        (128, 1.0, False, True, False),
        (128, 1.0, False, False, False),
        (32000, 1.0, False, True, False),
        (32000, 0.7, False, True, False),
        (32000, 1.0, True, True, False),
        (32000, 1.0, False, False, True),
    ):
        theirs, shape = model("qwen3", vocabulary)
        if checkpointing:
            theirs.gradient_checkpointing_enable({"use_reentrant": False})
        for parameter in theirs.parameters():
            parameter.grad = torch.zeros_like(parameter)
        actor = Actor(theirs)
        actor.packing_samples, actor.temperature = False, temperature
        found = _peak(actor, vocabulary, entropy, inference)
        if inference:
            parts = memory.inference_pass(shape, TOKENS)
        else:
            parts = memory.training_pass(
                plan(shape, temperature=temperature, entropy=entropy, checkpointing=checkpointing), TOKENS
            )
        what = f"vocabulary {vocabulary:,}, temperature {temperature}" + (", entropy" if entropy else "")
        what = "log-probabilities, " + what if inference else f"update, {what}" + (", checkpointing" * checkpointing)
        yield f"peak, {what}", found, sum(parts.values())


def _peak(actor: torch.nn.Module, vocabulary: int, entropy: bool, inference: bool) -> int:
    ids = torch.randint(0, vocabulary, (1, TOKENS))
    mask = torch.ones_like(ids)

    def step() -> None:
        with torch.set_grad_enabled(not inference):
            log_probs, output = actor(ids, mask[:, 1:], attention_mask=mask, return_output=True, return_entropy=entropy)
            if not inference:
                (log_probs.mean() + (output.entropy.mean() if entropy else 0)).backward()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def checkpoints() -> Iterator[tuple[str, float, float]]:
    """Yield the size of DeepSpeed's checkpoints under upstream's configuration, for each ZeRO stage."""
    for stage in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            argv = [sys.executable, __file__, "--checkpoint", str(stage), folder]
            done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
            parameters = json.loads(done.stdout.splitlines()[-1])
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        yield f"checkpoint, ZeRO-{stage}", size, memory.checkpoint_bytes(parameters, parameters, stage)


def write_checkpoint(stage: int, folder: str) -> None:
    """Train one step on one rank and save a checkpoint."""
    from openrlhf_mel.cpu import standins

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["MASTER_PORT"] = "0"
    standins.install()
    import deepspeed
    from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config

    # DeepSpeed would compile this extension for minutes, and one rank does not need it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    theirs, _ = model("qwen3", 8000, num_hidden_layers=8)
    parameters = sum(p.numel() for p in theirs.parameters())
    adam = {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}}
    config = get_train_ds_config(offload=False, adam_offload=False, stage=stage, zpg=1, optim_config=adam)
    config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    engine, *_ = deepspeed.initialize(
        model=theirs, model_parameters=list(theirs.parameters()), config=config, dist_init_required=False
    )
    ids = torch.ones(1, 8, dtype=torch.long)
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
    engine.save_checkpoint(folder, tag="t")
    print(json.dumps(parameters))


def main() -> None:
    """Measure, print, compare."""
    if "--checkpoint" in sys.argv:
        return write_checkpoint(int(sys.argv[2]), sys.argv[3])
    print("| what | measured (MB) | formula (MB) | difference |\n|---|---|---|---|")
    off = []
    for measure in (activations, peaks, checkpoints):
        for name, found, formula in measure():
            difference = formula / found - 1
            print(f"| {name} | {found / 1e6:,.2f} | {formula / 1e6:,.2f} | {difference:+.1%} |", flush=True)
            if abs(difference) > LIMIT:
                off.append(name)
    if off:
        sys.exit(f"off by more than {LIMIT:.0%}: {', '.join(off)}")


if __name__ == "__main__":
    main()
