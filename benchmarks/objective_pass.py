"""Optimizer steps of the real trainer in a fresh process: their memory and seconds (for `benchmarks/objective.py`).

    python -m benchmarks.objective_pass SPECIFICATION

SPECIFICATION is the JSON of a `Specification`; the last output line is a list of `Figures`, in the order of the runs.
Upstream's policy actor with MEL's trainer runs in plain process groups, without Ray and without a rollout engine.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Glibc keeps freed blocks below a threshold that grows up to 32 MB, so the peak would depend on the order of sizes.
GIVES_BACK_AT_ONCE = "MALLOC_MMAP_THRESHOLD_=262144"


@dataclass(frozen=True)
class Step:
    """One optimizer step: `samples` responses on each rank, and every row of `rows` once per rank.

    Attributes:
        prompt, response: tokens of each sample.
        rows: (tokens of C_retro, tokens of M).
        nll: how M's NLL is computed: `mel`; `sliced`, logits of all positions in fp32, then the cross-entropy of M's;
            `upstream`, the log-probabilities of upstream's Actor.
    """

    samples: int
    prompt: int = 8
    response: int = 8
    rows: tuple[tuple[int, int], ...] = ()
    nll: str = "mel"

    @property
    def tokens(self) -> int:
        """Tokens that a rank processes, context included."""
        return self.samples * (self.prompt + self.response) + sum(map(sum, self.rows))


@dataclass(frozen=True)
class Specification:
    """What one process measures.

    Attributes:
        folder: the model's.
        measured: `nll`, from the policy's last backward to the NLL's; `step`, the whole optimizer step; `bare`, the NLL
            pass on the model alone, without engine and optimizer.
        steps: run in sequence; the sequence is run `repeats` times.
    """

    folder: str
    steps: tuple[Step, ...]
    measured: str = "nll"
    repeats: int = 1
    device: str = "cpu"
    ranks: int = 1
    flags: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Specification:
        """Read a specification from JSON."""
        values = json.loads(text)
        steps = (Step(**s | {"rows": tuple(map(tuple, s["rows"]))}) for s in values.pop("steps"))
        return cls(**values | {"steps": tuple(steps), "flags": tuple(values["flags"])})


@dataclass(frozen=True)
class Figures:
    """Bytes at the start and at the peak, seconds, and the NLL (to check that all passes compute the same value).

    On a CPU: the process's resident memory, and its CPU time, which other load on the machine hardly affects.
    """

    start: int
    peak: int
    seconds: float
    nll: float = math.nan

    @property
    def over_start(self) -> int:
        """Peak minus start, in bytes."""
        return self.peak - self.start


def meter(call: Callable[[], Any], device: str) -> Figures:
    """Run `call` and measure it."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start, began = torch.cuda.memory_allocated(), time.perf_counter()
        call()
        torch.cuda.synchronize()
        return Figures(start, torch.cuda.max_memory_allocated(), time.perf_counter() - began)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (VmHWM)
    start, began = _resident("VmRSS"), time.process_time()
    call()
    return Figures(start, _resident("VmHWM"), time.process_time() - began)


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))  # KiB


def measure(spec: Specification, rank: int, port: int) -> list[Figures]:
    """Return this rank's figures, measured after a warm-up step with a short row."""
    actor = _start(spec, rank, port)
    trainer = actor.trainer
    internalize = trainer.internalize
    ways = {
        "mel": trainer.internalizer.nll,
        "sliced": partial(_sliced, trainer.actor.model),
        "upstream": partial(_through_upstream, trainer.actor),
    }
    found: list[Figures] = []

    def run(step: Step) -> None:
        _fill(actor, step, spec.ranks)
        trainer.internalizer.nll = ways[step.nll]
        if spec.measured == "step":
            found.append(meter(lambda: actor.fit(0.0), spec.device))
            return
        trainer.internalize = lambda: found.append(meter(internalize, spec.device))
        status = actor.fit(0.0)
        found[-1] = dataclasses.replace(found[-1], nll=status["mel/nll"])

    run(Step(spec.steps[0].samples, rows=((16, 8),)))
    for step in spec.repeats * spec.steps:
        run(step)
    return found[1:]


def _start(spec: Specification, rank: int, port: int) -> Any:
    """Return upstream's policy actor with MEL's trainer, initialized."""
    if spec.device == "cpu":
        from openrlhf_mel.cpu import standins

        standins.install()
        os.environ["OMP_NUM_THREADS"] = "1"
    from openrlhf.utils import get_strategy
    from openrlhf.utils.config import hierarchize

    from openrlhf_mel.cpu import policy
    from openrlhf_mel.settings import flags
    from openrlhf_mel.settings.resolve import resolve
    from openrlhf_mel.upstream import policy_actor

    samples = spec.steps[0].samples * spec.ranks
    longest = max(max(map(sum, step.rows), default=0) + step.prompt + step.response for step in spec.steps)
    runtime = ("--mel.cpu_dtype=fp32",) if spec.device == "cpu" else ()
    settings = resolve(None, [
        f"--actor.model_name_or_path={spec.folder}", "--data.prompt_dataset=x.jsonl", "--data.label_key=label",
        f"--data.max_len={longest}", f"--mel.runtime={spec.device}", *runtime, "--ds.attn_implementation=sdpa",
        "--rollout.batch_size=1", f"--rollout.n_samples_per_prompt={samples}", f"--train.batch_size={samples}",
        "--train.micro_batch_size=1", f"--actor.num_gpus_per_node={spec.ranks}", "--actor.adam.lr=0",
        "--actor.lr_scheduler=constant", *spec.flags,
    ])  # fmt: skip
    args = hierarchize(flags.parser().parse_args(settings.argv))
    args.mel = settings.mel
    args.actor.eps_clip_low_high = (args.actor.eps_clip, args.actor.eps_clip)
    args.rollout.max_tokens_per_gpu = args.train.max_tokens_per_gpu
    model = policy.CPUPolicyModel if spec.device == "cpu" else policy_actor.PolicyModel
    actor = model(spec.ranks, rank, "127.0.0.1", port)
    actor.init_model_from_pretrained(get_strategy(args), spec.folder, 100, None)
    return actor


def _fill(actor: Any, step: Step, ranks: int) -> None:
    """Give the actor a rollout of random ids, uniform under the old policy, half of the responses right."""
    import torch
    from openrlhf.trainer.ppo_utils.experience import Experience

    from openrlhf_mel.method.nll_plan import Row

    torch.manual_seed(0)
    vocabulary, length = actor.actor.model.module.config.vocab_size, step.prompt + step.response
    mask = torch.zeros(1, length - 1)
    mask[:, step.prompt - 1 :] = 1
    for i in range(step.samples):
        score = torch.tensor([float(i % 2)])
        actor.append(
            Experience(
                sequences=torch.randint(3, vocabulary, (1, length)),
                attention_mask=torch.ones(1, length, dtype=torch.long),
                action_mask=mask.long(),
                action_log_probs=-math.log(vocabulary) * mask,
                advantages=(2 * score - 1) * mask,
                returns=(2 * score - 1) * mask,
                rewards=score, scores=score,
                response_length=torch.tensor([step.response]),
                truncated=torch.tensor([False]),
                total_length=torch.tensor([float(length)]),
                index=[i], prompts=[""], labels=[""], images=[None], mm_train_inputs=[None], info={"reward": score},
            )
        )  # fmt: skip
    sizes = [size for size in step.rows for _ in range(ranks)]
    ids = [[torch.randint(3, vocabulary, (n,)).tolist() for n in size] for size in sizes]
    actor.take_rows([Row(tuple(c), tuple(m), f"q{i}") for i, (c, m) in enumerate(ids)], 1.0)


def _sliced(model: Any, batch: Any) -> Any:
    """(B,) NLL from fp32 logits at every position: M's go into a cross-entropy, the others are dropped."""
    from torch.nn import functional

    from openrlhf_mel.method.nll_loss import row_mean

    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    ).logits.float()[:, batch.positions]
    each = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return row_mean(each.view_as(batch.targets), batch.mask)


def _through_upstream(actor: Any, batch: Any) -> Any:
    """(B,) NLL from the log-probabilities of upstream's Actor, as in the policy loss."""
    from openrlhf_mel.method.nll_loss import row_mean

    return row_mean(-actor(batch.input_ids, batch.mask, attention_mask=batch.attention_mask), batch.mask)


def bare(spec: Specification) -> list[Figures]:
    """Measure the NLL pass on the model alone, in bf16 with gradient checkpointing; gradients exist at the start."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from openrlhf_mel.method.nll_batch import NLLBatch
    from openrlhf_mel.method.nll_head import NLLHead
    from openrlhf_mel.method.nll_loss import row_mean
    from openrlhf_mel.method.nll_plan import Row, WeightedRow

    torch.manual_seed(0)
    with torch.device(spec.device):
        config = AutoConfig.from_pretrained(spec.folder, use_cache=False)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    head = NLLHead(model)

    losses: list[float] = []

    def run(step: Step) -> None:
        (context, length), *_ = step.rows
        row = Row(tuple(range(3, 3 + context)), tuple(range(3, 3 + length)), "q")
        batch = NLLBatch.collate([WeightedRow(row, 1.0)], 0, spec.device)
        inputs = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "position_ids")}
        if step.nll == "mel":
            loss = row_mean(head.nll(model, batch.targets, batch.positions, **inputs), batch.mask).sum()
        else:
            loss = _sliced(model, batch).sum()
        loss.backward()
        losses.append(loss.item())

    run(Step(1, rows=((16, 8),)))
    found = [meter(partial(run, step), spec.device) for step in spec.repeats * spec.steps]
    return [dataclasses.replace(figures, nll=loss) for figures, loss in zip(found, losses[1:], strict=True)]


def _rank(rank: int, spec: Specification, port: int) -> None:
    if spec.ranks > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(spec.ranks)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank]
    found = measure(spec, rank, port)
    if rank == 0:
        _print(found)


def _print(found: list[Figures]) -> None:
    print(json.dumps([dataclasses.asdict(figures) for figures in found]))


def main() -> None:
    """Measure the command line's specification."""
    spec = Specification.parse(sys.argv[1])
    if spec.measured == "bare":
        return _print(bare(spec))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    if spec.ranks == 1:
        return _rank(0, spec, port)
    import torch.multiprocessing

    torch.multiprocessing.start_processes(_rank, args=(spec, port), nprocs=spec.ranks, start_method="spawn")


if __name__ == "__main__":
    main()
