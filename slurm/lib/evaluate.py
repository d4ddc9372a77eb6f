"""One array element's parts of an evaluation over benchmarks, seeds or checkpoints; the last element merges.

`slurm/eval.sbatch` runs it. A YAML file defines the evaluation, with the flags of `python -m eval.run` as keys, and:

  over:   benchmarks | seeds | checkpoints   what is divided into parts (default: benchmarks)
  seeds:  [0, 1, 2]                          for `over: seeds`: as `--seeds 0,1,2` of eval.run, each seed a part
  sbatch: "--array=0-4 ..."                  read by submit_experiment.sh

The elements take the parts in turn, so any number of elements, also one, covers all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval import arguments, checkpoint_models, identity, results, run, seed_folders, selection, store
from eval.seeds import SEEDS, write_seeds
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError

DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "eval" / "paper.yaml"
OVER = ("benchmarks", "seeds", "checkpoints")
PARTS = "parts"  # folder of unmerged results, and of the marks of finished parts


@dataclass(frozen=True)
class Part:
    """A name, the folder of its results, and the flags of eval.run that make it this part."""

    name: str
    folder: Path
    flags: list[str]


def main(argv: list[str]) -> int:
    """Evaluate this element's parts. Returns the exit code of eval.run if it is not 0."""
    with private_caches():
        return evaluate(argv)


@contextlib.contextmanager
def private_caches() -> Iterator[None]:
    """The job's folder of compiled files (site.sh): emptied first, since a kill leaves locks; removed at the end."""
    job, base = os.environ.get("SLURM_JOB_ID"), os.environ.get("MEL_TMP")
    if not (job and base):
        yield
        return
    folder = Path(base, f"mel-{job}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)  # busy files on NFS stay
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def evaluate(argv: list[str]) -> int:
    """See `main`."""
    try:
        flags, over, seeds = read(argv)
        options = arguments.parser().parse_args(flags)
        everything = parts(options, over, seeds)
        index, count = share()
        for part in everything[index::count]:
            print(f"{part.name}: {part.folder}", flush=True)
            if code := run.main([*flags, *part.flags]):
                return code
            mark(options.output_dir, part, flags).touch()
        with merging(options.output_dir):
            waiting = [part.name for part in everything if not mark(options.output_dir, part, flags).exists()]
            if waiting:
                print(f"not done yet: {', '.join(waiting)}; who is last merges")
                return 0
            return MERGE[over](flags, options, everything)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def read(argv: list[str]) -> tuple[list[str], str, list[int]]:
    """The flags of eval.run but `--seeds`, `over`, and the seeds: from the YAML, then from the command line, which wins."""
    parser = argparse.ArgumentParser(prog="slurm/eval.sbatch", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=DEFAULT)
    parser.add_argument("--over", choices=OVER)
    parser.add_argument("--seeds")
    own, rest = parser.parse_known_args(argv)
    try:
        chosen = yaml.safe_load(own.config.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {own.config}: cannot be read ({error}); expected a YAML file of flags") from None
    chosen.pop("sbatch", None)
    over = own.over or chosen.pop("over", OVER[0])
    chosen.pop("over", None)
    if over not in OVER:
        raise UserError(f"{own.config}: over: found {over!r}, expected one of {', '.join(OVER)}")
    listed = chosen.pop("seeds", None)
    seeds = seed_folders.parse(joined(listed) if own.seeds is None and listed is not None else own.seeds)
    if (over == "seeds") != bool(seeds):
        there = f"the seeds {joined(seeds)}" if seeds else "no seeds"
        raise UserError(f"over: {over}: found {there}; expected seeds with over: seeds, and with it alone")
    if chosen.get("train_report") and not Path(chosen["train_report"]).exists():
        del chosen["train_report"]  # only shown beside the scores
    for one, excluded in (("samples", "n"), ("n", "samples")):
        if any(token.partition("=")[0] == f"--{one}" for token in rest):
            chosen.pop(excluded, None)
    flags = [token for key, value in chosen.items() for token in flag(key, value)]
    gpus = int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)
    options = arguments.parser().parse_args([*flags, *rest])
    if over == "benchmarks" and options.shorten:
        raise UserError(
            "--shorten: found over: benchmarks, where each part would shorten to its own longest prompt; pass a --max-tokens "
            "that fits beside all prompts, or divide by --over seeds or checkpoints"
        )
    if options.backend == "vllm" and options.data_parallel is None and gpus:
        rest += ["--data-parallel", str(max(1, gpus // (options.tensor_parallel or 1)))]
    return [*flags, *rest], over, seeds


def flag(key: str, value: Any) -> list[str]:
    """A key of the YAML as tokens of a command line."""
    name = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        return [name] if value else []
    return [name, joined(value)]


def joined(value: Any) -> str:
    """A value of the YAML as that of a flag."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def parts(options: argparse.Namespace, over: str, seeds: list[int]) -> list[Part]:
    """All parts, in the same order for every element."""
    out: Path = options.output_dir
    if over == "seeds":
        arguments.check_output(options, seeds)
        places = ((seed, seed_folders.place(out, seed)) for seed in seeds)
        return [Part(to.name, to, ["--seed", str(seed), "--output-dir", str(to)]) for seed, to in places]
    if over == "checkpoints":
        if not options.run:
            raise UserError("over: checkpoints needs --run, a training run's folder")
        found = selection.select(checkpoint_models.find(options.run), options.checkpoints)
        asked = {c.label: "last" if c.label == "model" else "best" if c.best else str(c.step) for c in found}
        return [Part(label, out / label, ["--checkpoints", text]) for label, text in asked.items()]
    folders = ((name, out / PARTS / name) for name in arguments.names(options.benchmarks))
    return [Part(name, to, ["--benchmarks", name, "--output-dir", str(to)]) for name, to in folders]


def share() -> tuple[int, int]:
    """This element's index, from 0, and the number of elements."""
    environment = os.environ
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    first, step = int(environment["SLURM_ARRAY_TASK_MIN"]), int(environment.get("SLURM_ARRAY_TASK_STEP") or 1)
    return (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step, int(environment["SLURM_ARRAY_TASK_COUNT"])


def mark(out: Path, part: Part, flags: list[str]) -> Path:
    """The file that marks a part as finished with exactly these flags."""
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:12]
    return out / PARTS / f".{part.name}.{digest}.done"


@contextlib.contextmanager
def merging(out: Path) -> Iterator[None]:
    """A lock for merging: two elements may end at the same time."""
    with open(out / PARTS / ".lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def merge_benchmarks(flags: list[str], options: argparse.Namespace, everything: list[Part]) -> int:
    """Collect all samples in one folder, in which eval.run has nothing to draw and writes the results.

    Raises:
        UserError: parts differ in sampling; nothing is collected then.
    """
    check_sampling(options.output_dir, everything)
    for part in everything:
        for source in store.evaluations(part.folder):
            target = options.output_dir / source.relative_to(part.folder)
            (target / store.SAMPLES).mkdir(parents=True, exist_ok=True)
            for path in (source / store.SAMPLES).glob("*.jsonl"):
                aside = target / store.SAMPLES / f".{path.name}"
                shutil.copyfile(path, aside)
                os.replace(aside, target / store.SAMPLES / path.name)
            settings = store.read_json(source / store.SETTINGS)
            there = target / store.SETTINGS
            merged = store.read_json(there) if there.exists() else {}
            own = {key: merged.get(key, {}) | settings[key] for key in ("data_sha256", "scorers") if key in settings}
            disk.write_json(there, settings | own)
    return run.main(flags)


def check_sampling(out: Path, everything: list[Part]) -> None:
    """Raises UserError where parts of one evaluation, or parts and what was merged before, differ in sampling."""
    first: dict[Path, tuple[Path, dict[str, Any]]] = {}
    found = [
        (source, source.relative_to(part.folder)) for part in everything for source in store.evaluations(part.folder)
    ]
    merged = [(out / inner, inner) for _, inner in found if (out / inner / store.SETTINGS).exists()]
    for source, inner in [*merged, *found]:
        own = {"sampling": store.read_json(source / store.SETTINGS).get("sampling")}
        before, expected = first.setdefault(inner, (source, own))
        if changed := identity.differences(expected, own):
            raise UserError(
                f"{before} and {source}: found samples of other settings, {'; '.join(changed)}; expected the same for all "
                "benchmarks; evaluate all with the same flags into another --output-dir"
            )


def merge_checkpoints(_: list[str], options: argparse.Namespace, __: list[Part]) -> int:
    """Write one row per checkpoint."""
    results.write_checkpoints(options.output_dir)
    print(options.output_dir / results.CHECKPOINTS)
    return 0


def merge_seeds(_: list[str], options: argparse.Namespace, everything: list[Part]) -> int:
    """Write means and standard deviations over the seeds, as eval.run does with `--seeds`."""
    write_seeds(options.output_dir, [part.folder for part in everything])
    print(options.output_dir / SEEDS)
    return 0


MERGE: dict[str, Callable[[list[str], argparse.Namespace, list[Part]], int]] = {
    "benchmarks": merge_benchmarks,
    "seeds": merge_seeds,
    "checkpoints": merge_checkpoints,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
