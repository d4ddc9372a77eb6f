"""The first hour on a new cluster: python -m slurm.first_hour --output-dir DIR (`sbatch slurm/first-hour.sbatch` runs it).

Runs checks that need the machine itself, and prints pass or fail and what to do for each: packages and GPUs, grading,
vLLM asleep and awake, and a short training of a small model that is killed half-way and resumed. The training checks
the engine's log-probs against the actor's (also after weight synchronization), construction while the engine is awake,
checkpoint and resume, and GPU memory before the kill and after the resume. Without a GPU the checks run on the CPU
runtime with the built-in model, on vLLM where its CPU build is installed; checks that need a GPU print `none`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from openrlhf_mel import provenance
from openrlhf_mel.settings import vllm_build
from slurm.lib import gpu_memory, log_probs, process_group
from slurm.lib.check_result import Result
from slurm.lib.short_training import KILL_AFTER, STEPS, ShortTraining

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 900  # for one command
TWICE, SLEEP = "vLLM answers twice the same", "vLLM's sleep frees memory"
MEMORY = "GPU memory before the kill and after the resume"
NEEDS_GPU = {
    "GPUs": "torch sees none: the CPU runtime is checked",
    "CUDA kernels": "the engine and the policy compute on the CPU",
    "flash attention": "attention over packed rows is the CPU runtime's own",
    "weights handed over by NCCL or CUDA IPC": "they go by gloo to vLLM, through Ray to the transformers engine",
    SLEEP: "sleeping frees nothing on a CPU",
    MEMORY: "no GPU",
}


def packages(cuda: bool) -> Iterator[Result]:
    """The installed packages have the versions that requirements.txt pins."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    other, build = [], vllm_build.installed()
    for name, version in re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)", text, re.MULTILINE):
        if not cuda and (name == "flash-attn" or (name == "vllm" and not build)):
            continue  # the CPU runtime does not need it
        found = (build and build.version) if name == "vllm" else provenance.version(name)
        if not found or found.partition("+")[0] != version:
            other.append(f"{name} {found or 'none'}, not {version}")
    if cuda and build and build.cpu:
        other.append(f"{build} is built for CPUs")
    yield Result("packages", not other, "; ".join(other) or f"as in requirements.txt; vLLM: {build or 'none'}",
                 "install requirements.txt as its head says" if cuda else "make setup")  # fmt: skip
    if cuda:
        done = _python("-c", "import flash_attn.flash_attn_interface, flash_attn.bert_padding, vllm")
        advice = "flash-attn or vLLM was built for another PyTorch, CUDA or Python: install it again (head of requirements.txt)"
        yield Result("flash-attn and vLLM import", done.returncode == 0, _last(done.stderr) or "they do", advice)


def gpus(cuda: bool) -> Iterator[Result]:
    """Each GPU computes; without a GPU, the checks that are skipped."""
    import torch

    if not cuda:
        yield from (Result(name, None, reason) for name, reason in NEEDS_GPU.items())
        return
    seen = []
    for i in range(torch.cuda.device_count()):
        x = torch.randn(1024, 1024, device=f"cuda:{i}", dtype=torch.bfloat16)
        good = bool(torch.isfinite(x @ x).all())
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        seen.append(f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB{'' if good else ' DOES NOT COMPUTE'}")
    yield Result(
        "GPUs",
        "NOT" not in "".join(seen),
        "; ".join(seen),
        "have the node looked at; exclude it meanwhile (sbatch --exclude)",
    )


def grading(_: bool) -> Iterator[Result]:
    """The verifier's processes start and judge correctly here."""
    from openrlhf_mel.verifier import verify

    cases = [
        ("so \\boxed{\\frac{1}{2}}", "0.5", "correct"),
        ("\\boxed{3}", "4", "wrong"),
        ("I do not know", "4", "no_answer"),
    ]
    found = [verify(text, gold).status for text, gold, _ in cases]
    wrong = [
        f"{text!r} against {gold}: {was}, not {want}"
        for (text, gold, want), was in zip(cases, found, strict=True)
        if was != want
    ]
    yield Result("grading", not wrong, "; ".join(wrong) or f"{len(cases)} answers judged as they should be",
                 "timeouts: too few CPUs (--cpus-per-task); else math-verify's and sympy's versions")  # fmt: skip


def vllm_answers(model: str, cuda: bool) -> Iterator[Result]:
    """vLLM gives the same answer twice, on a GPU with a sleep in between, which frees its memory."""
    build = vllm_build.installed()
    if not cuda and not (build and build.cpu):
        found = f"{build}, which is not built for CPUs, is" if build else "no vLLM is"
        yield Result(TWICE, None, f"{found} installed: the transformers engine is checked")
        return
    done = _python("-m", "slurm.lib.ask_vllm", model, "cuda" if cuda else "cpu")
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        yield Result(
            TWICE,
            False,
            _last(done.stderr),
            "vLLM does not start with this model: python -c 'import vllm', then its log",
        )
        return
    apart = "do without vllm.enable_sleep and train.colocate_all: separate GPUs for policy and engines"
    yield Result(TWICE, found["same"], "the same words" if found["same"] else "other words",
                 apart if cuda else "report it, with the model and the CPU (lscpu)")  # fmt: skip
    if cuda:
        yield Result(SLEEP, found["freed"] > 1, f"{found['freed']:.1f} GiB freed", apart)


def training(model: str, folder: Path, gpus: int) -> Iterator[Result]:
    """The checks of a short training."""
    short = ShortTraining(model, folder, gpus)
    problem = short.run()
    log = f"read {short.run_dir / 'logs' / 'train.log'}"
    yield Result("training", not problem, problem or f"{STEPS} steps", log)
    rows, manifest = short.metrics(), short.manifest()
    steps = [row["step"] for row in rows]
    whole = (
        steps == list(range(1, STEPS + 1)) and bool(manifest.get("finished")) and len(manifest.get("resumed", [])) == 1
    )
    yield Result("checkpoint and resume", whole, f"killed after step {KILL_AFTER}; steps in metrics.jsonl: {steps}",
                 f"{log}; is the run's folder on a file system with enough room, and the same for all nodes?")  # fmt: skip
    if gpus:
        yield memory(short.before, short.after)
    yield from log_probs.compared(rows)
    made = sum(row.get("mel/candidates", 0) for row in rows)
    kept = sum(row.get("mel/kept", 0) for row in rows)
    yield Result("construction while the engine is awake", made > 0, f"{made} candidates, {kept} kept",
                 "no group had right and wrong responses: another --model, or read docs/troubleshooting.md")  # fmt: skip


def memory(before: dict[int, float], after: dict[int, float]) -> Result:
    """After a resume each GPU uses as much memory as before."""
    seen = [f"GPU {gpu}: {before[gpu]:.2f} GiB, then {after[gpu]:.2f}" for gpu in sorted(before.keys() & after.keys())]
    return Result(MEMORY, gpu_memory.same(before, after),
                  f"{'; '.join(seen) or 'not measured'}, allowed {gpu_memory.GROWTH_GIB} more",
                  "what a checkpoint brings back stays on the GPU while the policy sleeps (Adam's states: 8 bytes a "
                  "parameter, over all GPUs): a larger model is out of memory after its first restart; report it")  # fmt: skip


def in_time(name: str, check: Iterator[Result]) -> Iterator[Result]:
    """The results of `check`; a command in it that exceeds its time is a failure."""
    try:
        yield from check
    except subprocess.TimeoutExpired as error:
        yield Result(name, False, f"no answer within {error.timeout:.0f} s",
                     "a slow or hanging disk (HF_HOME, the environment), a download that never comes (HF_HUB_OFFLINE=1), "
                     "or a GPU that hangs: nvidia-smi on the node")  # fmt: skip


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return process_group.run([sys.executable, *arguments], PATIENCE_S)


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def _device_count() -> int:
    import torch

    return torch.cuda.device_count()


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m slurm.first_hour", description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, required=True, help="for the short run and first_hour.json")
    parser.add_argument("--model", help="default: Qwen/Qwen3-0.6B-Base, without a GPU the built-in one")
    options = parser.parse_args(arguments)
    devices = _device_count()
    cuda = devices > 0
    model = options.model or ("Qwen/Qwen3-0.6B-Base" if cuda else str(ROOT / "data" / "toy" / "model"))
    folder = options.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checks: dict[str, Callable[[], Iterator[Result]]] = {
        "packages": lambda: packages(cuda),
        "GPUs": lambda: gpus(cuda),
        "grading": lambda: grading(cuda),
        TWICE: lambda: vllm_answers(model, cuda),
        "training": lambda: training(model, folder, devices),
    }
    results: list[Result] = []
    for name, check in checks.items():
        for result in in_time(name, check()):
            print(result, flush=True)
            results.append(result)
            text = json.dumps([asdict(result) for result in results], indent=2)
            (folder / "first_hour.json").write_text(text + "\n")
    failed = sum(result.passed is False for result in results)
    unchecked = sum(result.passed is None for result in results)
    left = f", {unchecked} not to be checked here" if unchecked else ""
    print(f"\n{failed or 'none'} of {len(results)} failed{left}; {folder / 'first_hour.json'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
