"""Memory and time of the joint objective, with the real trainer on the real DeepSpeed engine.

    .venv/bin/python -m benchmarks.objective [--device cuda --shape qwen3-8b [--ranks 4]] [--repeats 3]

The model is a random Qwen3 in a temporary folder. Every memory figure comes from a fresh process (`objective_pass.py`).
The NLL pass is `JointTrainer.internalize`, from the policy's last backward to the NLL's; it is compared with the same
pass from full fp32 logits. On one GPU an 8B model's optimizer does not fit; there only the NLL pass is measured, on the
model without an engine. Prints Markdown tables; fails beyond a limit. Takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any

from benchmarks import measured
from benchmarks.objective_pass import GIVES_BACK_AT_ONCE, Figures, Specification, Step

SHAPES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 151_936,
    },
    "qwen3-8b": {
        "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
    },
    # An eighth of Qwen3-8B's width and of the rows' lengths: head and attention keep their shares of the work.
    "an eighth": {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 2108,
    },
}  # fmt: skip
NLL_MEMORY, NLL_SECONDS, LONG_GB, JOINT_MEMORY, PER_TOKEN = 1 / 8, 1.0, 6.0, 1.1, 1.15
SHORT, LONG = (4096, 512), (16_384, 512)  # tokens of C_retro and M
SAME_NLL = {"cpu": 1e-4, "cuda": 1e-2}  # fp32 and bf16

# Two responses of 1,800 tokens with prompts make a C_retro of 4k; or a policy half that is as large as the NLL half.
MIXES = {
    "as in a run": Step(2, 200, 1800, (SHORT,)),
    "halves alike": Step(2, 100, 800, (LONG,)),
}


@dataclass
class Report:
    """Collects figures with their limits."""

    lines: list[tuple[str, float, float]] = field(default_factory=list)

    def hold(self, name: str, value: float, limit: float = math.inf) -> None:
        """Record that `value` must be at most `limit`."""
        self.lines.append((name, value, limit))

    def end(self) -> None:
        """Print all; exit with 1 when one exceeds its limit."""
        print("\n| limit | measured | at most |\n|---|---|---|")
        for name, value, limit in self.lines:
            print(f"| {name} | {value:.3g} | {'' if limit == math.inf else f'{limit:.3g}'} |")
        if beyond := [name for name, value, limit in self.lines if not value <= limit]:
            sys.exit(f"error: beyond the limit: {'; '.join(beyond)}")


@dataclass(frozen=True)
class Bench:
    """A model folder, and where it runs. `alone`: without engine and optimizer, which do not fit."""

    folder: str
    device: str
    ranks: int
    flags: tuple[str, ...]
    alone: bool = False

    def run(self, measured_: str, *steps: Step, repeats: int = 1, live: bool = True) -> list[Figures]:
        """Measure in a fresh process. `live`: freed memory is returned at once, so peaks count only live memory."""
        spec = Specification(self.folder, steps, measured_, repeats, self.device, self.ranks, self.flags)
        environment = ["env", GIVES_BACK_AT_ONCE] if live else []
        argv = [sys.executable, "-m", "benchmarks.objective_pass", json.dumps(dataclasses.asdict(spec))]
        output = measured.run([*environment, *argv]).output
        return [Figures(**figures) for figures in json.loads(output.splitlines()[-1])]


def make_model(folder: str, shape: str, device: str, weights: bool = True) -> None:
    """Save a random model, or only its configuration, and a tokenizer that has a padding id."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = ["<pad>", "<eos>", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = Qwen3Config(
        **SHAPES[shape], **ends, max_position_embeddings=40_960, tie_word_embeddings=False, dtype=dtype
    )
    if not weights:
        config.save_pretrained(folder)
        return
    torch.manual_seed(0)
    with torch.device(device):
        Qwen3ForCausalLM(config).to(dtype).save_pretrained(folder)


def nll_passes(bench: Bench, report: Report, repeats: int, large: bool) -> None:
    """Measure memory and seconds of the NLL pass, and of the same pass with full logits.

    The memory limits apply to the small shape: in an 8B model, the hidden states that gradient checkpointing keeps for
    every token already take a sixth of the memory of its logits and their gradients.
    """
    kind, policy = ("bare", 1) if bench.alone else ("nll", 2)
    share, whole = (math.inf, math.inf) if large else (NLL_MEMORY, LONG_GB)
    print("\n| NLL pass (C_retro + M) | start (GB) | peak (GB) | over the start (GB) |\n|---|---|---|---|", flush=True)

    def memory(name: str, size: tuple[int, int], nll: str = "mel", live: bool = True) -> Figures:
        (figures,) = bench.run(kind, Step(policy, rows=(size,), nll=nll), live=live)
        _print(f"{name} ({size[0]:,} + {size[1]})", figures)
        return figures

    ours = memory("MEL's", SHORT)
    same = []
    if not bench.alone:
        same = [memory("full fp32 logits, as upstream's Actor", SHORT, "upstream")]
        ratio = ours.over_start / same[0].over_start
        report.hold("NLL pass, memory over the start / with full fp32 logits (upstream's Actor)", ratio, share)
    cut = memory("full fp32 logits, cut to M's at once", SHORT, "sliced")
    least = memory("MEL's, hardly any tokens", (16, 8))
    same.append(cut)
    report.hold("the same / with full fp32 logits cut to M's at once", ours.over_start / cut.over_start)
    # DeepSpeed frees its gradient buffers when a backward ends, so the policy's are freed before the NLL begins.
    by_length = (ours.peak - least.peak) / (cut.peak - least.peak)
    report.hold("the same, less what a backward of any length takes on both sides", by_length, share)
    # As users run it: memory that the C library keeps counts.
    long = memory("MEL's, as it is", LONG, live=False)
    report.hold("NLL pass at 16k, peak of the process (GB)", long.peak / 1e9, whole)
    off = max(abs(ours.nll - other.nll) for other in same)
    report.hold("NLL, difference between the passes at 4k", off, SAME_NLL[bench.device])

    pair = [Step(policy, rows=(SHORT,), nll=nll) for nll in ("mel", "sliced")]
    found = [f.seconds for f in bench.run(kind, *pair, repeats=repeats, live=False)]
    ours_s, full_s = found[::2], found[1::2]
    print("\n| NLL pass | seconds (median) |\n|---|---|")
    print(f"| MEL's | {statistics.median(ours_s):.1f} |")
    print(f"| full fp32 logits | {statistics.median(full_s):.1f} |", flush=True)
    report.hold("NLL pass, seconds / with full logits", _ratio(ours_s, full_s), NLL_SECONDS)


def joint_memory(bench: Bench, report: Report) -> None:
    """Measure the peak of an optimizer step: the policy half, the NLL half (after a minimal policy pass), and both."""
    print("\n| optimizer step | start (GB) | peak (GB) | over the start (GB) |\n|---|---|---|---|", flush=True)
    for name, both in MIXES.items():
        parts = {
            "policy": dataclasses.replace(both, rows=()),
            "NLL": Step(both.samples, rows=both.rows),
            "both": both,
        }
        peaks = {}
        for part, step in parts.items():
            (figures,) = bench.run("step", step)
            _print(f"{name}: {part}", figures)
            peaks[part] = figures.over_start
        larger = max(peaks["policy"], peaks["NLL"])
        report.hold(f"joint step, {name}, memory over the start / larger half", peaks["both"] / larger, JOINT_MEMORY)


def step_seconds(bench: Bench, report: Report, name: str, joint: Step, repeats: int) -> None:
    """Measure seconds per token of the optimizer step, alternately without and with Ms."""
    baseline = dataclasses.replace(joint, rows=())
    found = [f.seconds for f in bench.run("step", baseline, joint, repeats=repeats, live=False)]
    without, with_mel = ([1000 * s / step.tokens for s in found[i::2]] for i, step in enumerate((baseline, joint)))
    print(f"\n| optimizer step, {name} | tokens | ms per token (median) |\n|---|---|---|")
    print(f"| baseline | {baseline.tokens:,} | {statistics.median(without):.2f} |")
    print(f"| with MEL | {joint.tokens:,} | {statistics.median(with_mel):.2f} |", flush=True)
    report.hold(f"optimizer step, {name}, seconds per token / baseline", _ratio(with_mel, without), PER_TOKEN)


def _ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of consecutive measurements."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _print(name: str, figures: Figures) -> None:
    values = (figures.start, figures.peak, figures.over_start)
    print(f"| {name} |", *(f"{value / 1e9:.2f} |" for value in values), flush=True)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("small", "qwen3-8b"), default="small", help="qwen3-8b: on GPUs alone")
    parser.add_argument("--ranks", type=int, default=1, help="processes, each on a GPU of its own")
    parser.add_argument("--repeats", type=int, default=3, help="of what is timed")
    options = parser.parse_args()
    if options.device == "cuda":
        import torch

        if torch.cuda.device_count() < options.ranks:
            sys.exit(f"error: --device cuda: torch sees {torch.cuda.device_count()} GPUs, expected {options.ranks}")
    elif options.shape == "qwen3-8b":
        sys.exit("error: --shape qwen3-8b: found --device cpu, expected --device cuda")
    return options


def main() -> None:
    """Measure, print, judge."""
    options = _options()
    large = options.shape == "qwen3-8b"
    flags = ("--ds.zero_stage=3", "--actor.gradient_checkpointing_enable") if large else ()
    report = Report()
    if options.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {options}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, options.device, options.ranks, flags, alone=large and options.ranks == 1)
        make_model(folder, options.shape, options.device, weights=not bench.alone)
        nll_passes(bench, report, options.repeats, large)
        if not bench.alone:
            joint_memory(bench, report)
            step_seconds(bench, report, options.shape, MIXES["as in a run"], options.repeats)
    if options.device == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            make_model(folder, "an eighth", options.device)
            eighth = Step(16, 25, 225, ((512, 64), (512, 64)))
            bench = Bench(folder, options.device, options.ranks, flags)
            step_seconds(bench, report, "an eighth of Qwen3-8B", eighth, 2 * options.repeats - 1)
    report.end()


if __name__ == "__main__":
    main()
