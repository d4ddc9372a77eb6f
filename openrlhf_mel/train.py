"""`python -m openrlhf_mel.train --config FILE.yaml [--any.flag value ...]`: train with Meta-Experience Learning.

Resolve the settings, check what can be checked, start Ray, run upstream's trainer with MEL's classes in place.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from openrlhf_mel import __version__, checkpoint, config, failure, runlog, vllm_build
from openrlhf_mel.errors import HeldError, UserError
from openrlhf_mel.prompts import Templates
from openrlhf_mel.upstream import contract, flags
from openrlhf_mel.upstream.settings import Settings, here, resolve

EXIT_HELD = 69  # the exit code when another process holds the run's folder (EX_UNAVAILABLE of sysexits.h)
EXIT_STOPPED = 75  # the exit code of a run that was asked to stop (EX_TEMPFAIL of sysexits.h): start it again
# How long a lock may outlive its holder: the lease of a node that died under NFSv4, its eviction under Lustre.
LOCK_PATIENCE_S = 180.0
_PACKAGES = ("openrlhf", "deepspeed", "ray", "torch", "transformers", "flash-attn", "math-verify")


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code.

    0 when the run is finished, 1 when training failed, 2 for bad input, 69 when another process holds the run's folder,
    75 when it was stopped and can be resumed, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m openrlhf_mel.train", add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    for switch in ("--dry-run", "--help", "-h", "--help-upstream"):
        parser.add_argument(switch, action="store_true")
    own, rest = parser.parse_known_args(arguments)
    _quiet()
    try:
        if own.help or own.h:
            print(_help())
            return 0
        if own.help_upstream:
            flags.parser().print_help()
            return 0
        # What is only printed may be meant for another machine.
        settings = resolve(own.config, rest, device=here() if own.dry_run else None)
        if own.dry_run:
            print(json.dumps(settings.as_dict(), indent=2, ensure_ascii=False))
            return 0
        return train(settings)
    except UserError as error:
        for message in error.args:
            print(f"error: {message}", file=sys.stderr)
        return EXIT_HELD if isinstance(error, HeldError) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def train(settings: Settings) -> int:
    """Run `settings` to the end. Raises UserError for what is wrong before training starts."""
    from openrlhf_mel.upstream import launch, preflight

    run_dir = settings.run_dir
    resume = settings.upstream["ckpt.load_enable"]
    if runlog.check_run_dir(run_dir, settings.as_dict(), resume):
        print(f"run: {run_dir} is finished already")
        return 0
    launch.prepare_process(settings.mel)
    contract.check_version()
    preflight.check_templates(settings)
    preflight.check_model(settings)
    preflight.check_data(settings)
    with launch.worker_python(settings) as python:
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            differing = beside.submit(contract.differences)  # imports OpenRLHF, which can take as long as Ray to start
            launch.start_ray(settings, python)
        try:
            if lines := differing.result():
                raise UserError("openrlhf differs from what this package uses:\n  " + "\n  ".join(lines[:8]))
            return _run(settings)
        finally:
            launch.stop_ray()


def _run(settings: Settings) -> int:
    """Run upstream's entry in the run's folder. Returns the exit code."""
    from openrlhf_mel.upstream import launch

    run_dir = settings.run_dir
    log = run_dir / "logs" / "train.log"
    begin = log.stat().st_size if log.exists() else 0
    engines = None
    try:
        with (
            _begin(run_dir, settings),
            _logs_to(log) as console,
            _progress(run_dir, console),
        ):
            engines = launch.substitute(settings)
            with engines:
                launch.run_upstream(settings)
        _finish(run_dir)
    except UserError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        died = engines and engines.died
        if isinstance(error, KeyboardInterrupt) and not died:
            raise
        if (run_dir / runlog.STOPPED).exists() and not settings.upstream["ckpt.disable_ds"]:
            print("stopped: everything is saved, and --ckpt.load_enable goes on", file=sys.stderr)
            return EXIT_STOPPED
        _report(died or error, log, begin)
        return 1
    return 0


def _quiet() -> None:
    """Other packages' start-up chatter would bury the one line that a user should read."""
    warnings.filterwarnings("ignore", category=FutureWarning, message="The pynvml package is deprecated")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns about a default that will change


def _help() -> str:
    return f"""usage: python -m openrlhf_mel.train --config FILE.yaml [--any.flag value ...]

Trains with Meta-Experience Learning through OpenRLHF {contract.VERSION}. The YAML nests upstream's dotted names and
`mel:`; flags on the command line win over it. A switch may be given as --switch, or --switch true | false.

  --config FILE             the YAML file
  --dry-run                 print the resolved configuration and end
  --help                    this text
  --help-upstream           every flag of OpenRLHF (--actor.*, --data.*, --rollout.*, --train.*, ...)

{config.help_lines()}"""


@contextlib.contextmanager
def _begin(run_dir: Path, settings: Settings) -> Iterator[None]:
    """Make the run's folder and hold it: two runs in one folder would spoil each other."""
    for folder in ("logs", "checkpoints", "tensorboard"):
        (run_dir / folder).mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as lock:
        resumes = settings.upstream["ckpt.load_enable"] and (run_dir / runlog.MANIFEST).exists()
        try:
            _lock(lock, run_dir, LOCK_PATIENCE_S if resumes else 0)
        except OSError as error:  # some parallel file systems have no locks
            print(f"warning: {run_dir} cannot be locked ({error.strerror}): see that one run uses it", file=sys.stderr)
        for name in (runlog.METRICS, runlog.ARCHIVE):
            (run_dir / name).touch()
        (run_dir / runlog.STOPPED).unlink(missing_ok=True)
        if settings.upstream["ckpt.load_enable"]:
            checkpoint.prepare(Path(settings.upstream["ckpt.path"]) / "_actor")
        manifest = _manifest(settings)
        if (run_dir / runlog.MANIFEST).exists():
            first = json.loads((run_dir / runlog.MANIFEST).read_text(encoding="utf-8"))
            _check_unchanged(run_dir, first, manifest)
            manifest |= {"started": first["started"], "resumed": [*first.get("resumed", []), runlog.now()]}
        runlog.write_json(run_dir / runlog.MANIFEST, manifest)
        yield


def _lock(file: TextIO, run_dir: Path, patience: float) -> None:
    deadline, told = time.monotonic() + patience, False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise HeldError(
                    f"--mel.run_dir {run_dir}: another process is running in it; choose another folder"
                ) from None
        if not told:
            print(f"{run_dir} is locked, perhaps by a node that died: waiting up to {patience:.0f} s", file=sys.stderr)
            told = True
        time.sleep(min(1.0, patience / 4))


def _check_unchanged(run_dir: Path, first: dict[str, Any], now: dict[str, Any]) -> None:
    """A run that goes on learns from the same data by the same templates."""
    for name in ("data_sha256", "templates_sha256"):
        if first.get(name) != now[name]:
            differing = [k for k in now[name] if (first.get(name) or {}).get(k) != now[name][k]]
            raise UserError(
                f"--mel.run_dir {run_dir}: the content of {', '.join(differing)} has changed since the run began; put it "
                "back, or choose another folder"
            )


def _finish(run_dir: Path) -> None:
    manifest = json.loads((run_dir / runlog.MANIFEST).read_text(encoding="utf-8"))
    partial = run_dir / "model.partial"
    if manifest["config"]["ckpt.output_dir"] == str(partial):
        checkpoint.replace(partial, run_dir / "model")
    runlog.write_json(run_dir / runlog.MANIFEST, manifest | {"finished": runlog.now()})


def _manifest(settings: Settings) -> dict[str, Any]:
    data = {
        flag: {part.strip(): _sha256(Path(part.strip())) for part in settings.upstream[flag].split(",")}
        for flag in ("data.prompt_dataset", "eval.dataset")
        if settings.upstream[flag]
    }
    return {
        "started": runlog.now(),
        "finished": None,
        "config": settings.as_dict(),
        "seed": {"train.seed": settings.upstream["train.seed"], "mel.seed": settings.mel.seed},
        "versions": {"openrlhf_mel": __version__, "python": platform.python_version()}
        | _vllm()
        | {name: _version(name) for name in _PACKAGES},
        "commit": runlog.commit(),
        "data_sha256": data,
        "templates_sha256": Templates.load(settings.mel.template_dir).sha256,
    }


def _vllm() -> dict[str, str | None]:
    """Its version by its distribution's name; None where there is none."""
    build = vllm_build.installed()
    return {build.distribution: build.version} if build else {"vllm": None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sha256(path: Path) -> str | None:
    """The SHA-256 of a file's content; None for a folder or a name on the hub."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _logs_to(path: Path) -> Iterator[TextIO]:
    """Send everything that this process and its children print to `path`; yields the console that was there."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "ab", buffering=0) as log, os.fdopen(os.dup(1), "w", buffering=1) as console:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield console
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for old, number in zip(saved, (1, 2), strict=True):
                os.dup2(old, number)
                os.close(old)


@contextlib.contextmanager
def _progress(run_dir: Path, console: TextIO) -> Iterator[None]:
    """Print a line a step on `console`, from the run's own `metrics.jsonl`, and the run's warnings."""
    print(f"run: {run_dir} (full log: {run_dir / 'logs' / 'train.log'})", file=console)
    done = threading.Event()
    seen = {path: sum(1 for _ in runlog.read_lines(path)) for path in _followed(run_dir)}

    def follow() -> None:
        while True:
            last = done.wait(1.0)
            for path in _followed(run_dir):
                rows = list(runlog.read_lines(path))
                for row in rows[seen[path] :]:
                    print(_line(row), file=console)
                seen[path] = len(rows)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _followed(run_dir: Path) -> list[Path]:
    return [run_dir / runlog.METRICS, run_dir / runlog.WARNINGS]


def _line(row: dict[str, Any]) -> str:
    if "warning" in row:
        return f"warning: {row['warning']}"
    parts = [f"step {row['step']}"]
    if "reward_mean" in row:
        parts.append(f"reward {row['reward_mean']:.3f}")
    if "mel/kept" in row:
        parts.append(f"kept {row['mel/kept']}/{row['mel/candidates']}")
    if "loss/nll" in row:
        parts.append(f"nll {row['loss/nll']:.3f}")
    return "  ".join([*parts, f"{row['seconds']:.0f} s"])


def _report(error: BaseException, log: Path, begin: int) -> None:
    """Two lines: the first cause, and where the rest is. `begin`: bytes of the log that are an earlier attempt's."""
    with open(log, "a+", encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        said = failure.describe(error, file)
        traceback.print_exception(error, file=file)
    print(f"error: training failed: {said}\n  full log: {log}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
