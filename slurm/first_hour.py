"""The first hour on a new cluster: python slurm/first_hour.py --output-dir DIR (`sbatch slurm/first-hour.sbatch` runs it).

Checks, each with pass or fail and what to do, of what only the machine itself can show: packages and GPUs, grading, vLLM
asleep and awake, and a short training of a small model that is killed half-way and taken up: the engine's log-probs
against the actor's (also after weights were handed over), construction while the engine is awake, checkpoint and resume,
and GPU memory before the kill and after the resume. Without a GPU the same checks run on the CPU runtime with the built-in
model, those of vLLM and of GPU memory left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gpu_memory
import process_group

ROOT = Path(__file__).resolve().parents[1]
STEPS, KILL_AFTER = 4, 2
POLL_S = 0.05  # of the short training: GPU memory is less than a second at its least
PATIENCE_S, TRAINING_S = 900, 1500  # for one command, and for each half of the short training
SAME_LOG_PROBS = 0.02  # nats a token: what bf16 and other kernels leave; stale weights are several times that
_SLEEP = """
import json, sys, torch, vllm
llm = vllm.LLM(model=sys.argv[1], enable_sleep_mode=True, gpu_memory_utilization=0.3, max_model_len=2048, seed=0)
def said():
    return llm.generate(["2 + 3 ="], vllm.SamplingParams(temperature=0, max_tokens=16))[0].outputs[0].text
def used():
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30
first, awake = said(), used()
llm.sleep(level=1)
asleep = used()
llm.wake_up()
print(json.dumps({"same": said() == first, "awake": awake, "asleep": asleep}))
"""


@dataclass(frozen=True)
class Result:
    """A check's outcome: passed (None: not to be checked here), what was seen, and what to do about a failure."""

    name: str
    passed: bool | None
    seen: str
    advice: str = ""

    def __str__(self) -> str:
        word = {True: "pass", False: "FAIL", None: "none"}[self.passed]
        return f"{word}  {self.name}: {self.seen}" + (f"\n      -> {self.advice}" if self.passed is False else "")


def packages(cuda: bool) -> Iterator[Result]:
    """What is installed is what was tested, as far as requirements.txt pins it."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    other = []
    for name, version in re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)", text, re.MULTILINE):
        if name in ("vllm", "flash-attn") and not cuda:
            continue
        try:
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != version:
            other.append(f"{name} {found}, not {version}")
    yield Result(
        "packages", not other, "; ".join(other) or "as in requirements.txt", "install requirements.txt as its head says"
    )
    if cuda:
        done = _python("import flash_attn.flash_attn_interface, flash_attn.bert_padding, vllm")
        advice = "flash-attn or vLLM was built for another PyTorch, CUDA or Python: install it again (head of requirements.txt)"
        yield Result("flash-attn and vLLM import", done.returncode == 0, _last(done.stderr) or "they do", advice)


def gpus(cuda: bool) -> Iterator[Result]:
    """Each computes, and what it is."""
    import torch

    if not cuda:
        yield Result("GPUs", None, "torch sees none: the CPU runtime is checked")
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
    """The verifier's processes start and judge here as they should."""
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


def sleep_and_wake(model: str, cuda: bool) -> Iterator[Result]:
    """vLLM frees its memory, and says the same after it has slept."""
    name = "vLLM sleeps and wakes"
    if not cuda:
        yield Result(name, None, "no GPU")
        return
    done = _python(_SLEEP, model)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        yield Result(
            name,
            False,
            _last(done.stderr),
            "vLLM does not start with this model: python -c 'import vllm', then its log",
        )
        return
    freed = found["awake"] - found["asleep"]
    yield Result(name, found["same"] and freed > 1, f"{freed:.1f} GiB freed, the same words after: {found['same']}",
                 "do without vllm.enable_sleep and train.colocate_all: separate GPUs for policy and engines")  # fmt: skip


class Training:
    """A short run of the real trainer, with the settings of the presets as far as the machine allows."""

    def __init__(self, model: str, folder: Path, cuda: bool):
        self.run_dir = folder / "run"
        self.before: dict[int, float] = {}  # GiB of each GPU, before the kill and after the resume
        self.after: dict[int, float] = {}
        self._cuda = cuda
        self._config = folder / "first_hour.yaml"
        gpus = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0) or (_device_count() if cuda else 1)
        toy = model.endswith("data/toy/model")
        settings: dict[str, Any] = {
            # A high learning rate: weights that were not handed over show in the log-probs.
            "actor": {"model_name_or_path": model, "num_gpus_per_node": gpus, "adam": {"lr": 1e-3 if toy else 2e-5},
                      "lr_scheduler": "constant", "gradient_checkpointing_enable": cuda},
            "data": {"prompt_dataset": str(ROOT / "data/toy/train.jsonl"), "input_key": "input", "label_key": "label",
                     "max_len": 384 if toy else 4096, "max_samples": 16 * STEPS},
            "rollout": {"batch_size": 16, "n_samples_per_prompt": 8, "max_new_tokens": 64 if toy else 768},
            "train": {"batch_size": 128, "colocate_all": True, "dynamic_batch_enable": True, "max_tokens_per_gpu": 8192},
            "ds": {"zero_stage": 3, "packing_samples": True, "attn_implementation": "flash_attention_2", "enable_sleep": cuda},
            "vllm": {"num_engines": gpus, "enable_sleep": True, "gpu_memory_utilization": 0.5},
            "algo": {"advantage": {"is_correction_level": "token", "is_correction_mode": "clip"}},
            "ckpt": {"save_steps": 1, "max_num": 2},
            "mel": {"runtime": "cuda" if cuda else "cpu", "run_dir": str(self.run_dir),
                    "template_dir": str(ROOT / "data/toy/templates") if toy else None},
        }  # fmt: skip
        self._config.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def run(self) -> str:
        """Until killed after some steps, then to its end. Returns what went wrong, or nothing."""
        first = self._start()
        try:
            ended = self._watch(first, KILL_AFTER, self.before)
        finally:
            # As a preemption without warning would; at a timeout as every command.
            process_group.end(first, grace=0 if self._saved(KILL_AFTER) else None)
        if ended:
            return f"training ended with exit code {first.returncode} before step {KILL_AFTER}"
        if not self._saved(KILL_AFTER):
            return f"no checkpoint of step {KILL_AFTER} within {TRAINING_S} s"
        second = self._start()
        try:
            started = time.monotonic()
            self._watch(second, STEPS, self.after)
            code = second.wait(max(0.0, TRAINING_S - (time.monotonic() - started)))
        except subprocess.TimeoutExpired:
            return f"the resumed training did not end within {TRAINING_S} s"
        finally:
            process_group.end(second)
        return f"the resumed training ended with exit code {code}" if code else ""

    def _watch(self, process: subprocess.Popen, step: int, least: dict[int, float]) -> bool:
        """Wait for the checkpoint of `step`, and note in `least` the least of each GPU's memory that was used since the one
        before: a whole step, so that the phases are the same. Returns whether the process has ended before it."""
        deadline = time.monotonic() + TRAINING_S
        while not self._saved(step) and time.monotonic() < deadline:
            if process.poll() is not None:
                return True
            if self._cuda and self._saved(step - 1):
                gpu_memory.note(least)
            time.sleep(POLL_S)
        return False

    def metrics(self) -> list[dict[str, Any]]:
        """A row a step."""
        path = self.run_dir / "metrics.jsonl"
        return (
            [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
        )

    def manifest(self) -> dict[str, Any]:
        """The run's."""
        path = self.run_dir / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "openrlhf_mel.train", "--config", self._config, "--ckpt.load_enable"]
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, start_new_session=True)

    def _saved(self, step: int) -> bool:
        """Whether the checkpoint of `step`, or a later one, is whole: `latest` is written last."""
        path = self.run_dir / "checkpoints" / "_actor" / "latest"
        found = re.search(r"(\d+)$", path.read_text().strip()) if path.exists() else None
        return bool(found) and int(found[1]) >= step


def training(model: str, folder: Path, cuda: bool) -> Iterator[Result]:
    """What a short training shows."""
    short = Training(model, folder, cuda)
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
    if cuda:
        yield memory(short.before, short.after)
    gaps = [row["vllm_kl"] for row in rows if "vllm_kl" in row]
    yield _same(
        "log-probs: engine against actor",
        gaps[:1],
        "vLLM and the actor compute different models: dtype, flash-attn's version",
    )
    yield _same(
        "log-probs after weights were handed over",
        gaps[1:],
        "the engine keeps old weights: vllm.sync_backend, NCCL, vllm.enable_sleep",
    )
    made = sum(row.get("mel/candidates", 0) for row in rows)
    kept = sum(row.get("mel/kept", 0) for row in rows)
    yield Result("construction while the engine is awake", made > 0, f"{made} candidates, {kept} kept",
                 "no group had right and wrong responses: another --model, or read docs/troubleshooting.md")  # fmt: skip


def memory(before: dict[int, float], after: dict[int, float]) -> Result:
    """A resume leaves on each GPU what was there before."""
    seen = [f"GPU {gpu}: {before[gpu]:.2f} GiB, then {after[gpu]:.2f}" for gpu in sorted(before.keys() & after.keys())]
    return Result("GPU memory before the kill and after the resume", gpu_memory.same(before, after),
                  f"{'; '.join(seen) or 'not measured'}, allowed {gpu_memory.GROWTH_GIB} more",
                  "what a checkpoint brings back stays on the GPU while the policy sleeps (Adam's states: 8 bytes a "
                  "parameter, over all GPUs): a larger model is out of memory after its first restart; report it")  # fmt: skip


def in_time(name: str, check: Iterator[Result]) -> Iterator[Result]:
    """The results of `check`; a command in it that does not end is a failure like others."""
    try:
        yield from check
    except subprocess.TimeoutExpired as error:
        yield Result(name, False, f"no answer within {error.timeout:.0f} s",
                     "a slow or hanging disk (HF_HOME, the environment), a download that never comes (HF_HUB_OFFLINE=1), "
                     "or a GPU that hangs: nvidia-smi on the node")  # fmt: skip


def _same(name: str, gaps: list[float], advice: str) -> Result:
    seen = ", ".join(f"{gap:+.4f}" for gap in gaps) or "not measured"
    return Result(
        name,
        bool(gaps) and max(map(abs, gaps)) < SAME_LOG_PROBS,
        f"{seen} nats a token, allowed {SAME_LOG_PROBS}",
        advice,
    )


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return process_group.run([sys.executable, "-c", code, *arguments], PATIENCE_S)


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def _device_count() -> int:
    import torch

    return torch.cuda.device_count()


def main(arguments: list[str] | None = None) -> int:
    """0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="python slurm/first_hour.py", description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, required=True, help="for the short run and first_hour.json")
    parser.add_argument("--model", help="default: Qwen/Qwen3-0.6B-Base, without a GPU the built-in one")
    options = parser.parse_args(arguments)
    cuda = _device_count() > 0
    model = options.model or ("Qwen/Qwen3-0.6B-Base" if cuda else str(ROOT / "data" / "toy" / "model"))
    folder = options.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checks: dict[str, Callable[[], Iterator[Result]]] = {
        "packages": lambda: packages(cuda),
        "GPUs": lambda: gpus(cuda),
        "grading": lambda: grading(cuda),
        "vLLM sleeps and wakes": lambda: sleep_and_wake(model, cuda),
        "training": lambda: training(model, folder, cuda),
    }
    results: list[Result] = []
    for name, check in checks.items():
        for result in in_time(name, check()):
            print(result, flush=True)
            results.append(result)
            text = json.dumps([asdict(result) for result in results], indent=2)
            (folder / "first_hour.json").write_text(text + "\n")
    failed = sum(result.passed is False for result in results)
    print(f"\n{failed or 'none'} of {len(results)} failed; {folder / 'first_hour.json'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
