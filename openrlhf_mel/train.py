"""`python -m openrlhf_mel.train --config FILE.yaml [--any.flag value ...]`: train with Meta-Experience Learning.

Resolves the settings, checks them, starts Ray, and runs upstream's trainer with MEL's classes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import sys
import traceback
import warnings
from pathlib import Path

from openrlhf_mel.errors import HeldError, UserError
from openrlhf_mel.run import console, failure, folder, records
from openrlhf_mel.settings import flags, mel_options
from openrlhf_mel.settings.resolve import Settings, here, resolve
from openrlhf_mel.upstream import AGENT_EXECUTOR, contract

EXIT_HELD = 69  # the exit code when another process holds the run's folder (EX_UNAVAILABLE of sysexits.h)
EXIT_STOPPED = 75  # the exit code of a run that a request stopped (EX_TEMPFAIL of sysexits.h): start it again


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
        # Settings that are only printed may be meant for another machine.
        device = here() if own.dry_run else None
        settings = resolve(own.config, rest, device=device, agent_executor=AGENT_EXECUTOR, begun=folder.begun)
        for warning in settings.warnings:
            print(f"warning: {warning}", file=sys.stderr)
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
    """Run `settings` to the end. Raises UserError for errors that are detected before training starts."""
    from openrlhf_mel import launch
    from openrlhf_mel.settings import inputs

    run_dir = settings.run_dir
    resume = settings.upstream["ckpt.load_enable"]
    if folder.check(run_dir, settings.as_dict(), resume):
        return _finished_already(run_dir)
    launch.prepare_process(settings.mel)
    contract.check_version()
    inputs.check_templates(settings)
    inputs.check_model(settings)
    scorers = inputs.check_data(settings)
    with launch.worker_python(settings) as python:
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            differing = beside.submit(contract.differences)  # imports OpenRLHF, which can take as long as starting Ray
            launch.start_ray(settings, python)
        try:
            if lines := differing.result():
                raise UserError("openrlhf differs from what this package uses:\n  " + "\n  ".join(lines[:8]))
            return _run(settings, scorers)
        finally:
            launch.stop_ray()


def _run(settings: Settings, scorers: dict[str, str]) -> int:
    """Run upstream's entry in the run's folder. Returns the exit code."""
    from openrlhf_mel import launch

    run_dir = settings.run_dir
    log = run_dir / "logs" / "train.log"
    begin = log.stat().st_size if log.exists() else 0
    engines = None
    try:
        with folder.held(run_dir, settings, scorers) as finished:
            if finished:
                return _finished_already(run_dir)
            with console.logs_to(log) as terminal, console.progress(run_dir, terminal):
                engines = launch.substitute(settings)
                with engines:
                    launch.run_upstream(settings)
            folder.finish(run_dir)
    except UserError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        died = engines and engines.died
        if isinstance(error, KeyboardInterrupt) and not died:
            raise
        if (run_dir / records.STOPPED).exists() and not settings.upstream["ckpt.disable_ds"]:
            print("stopped: everything is saved; --ckpt.load_enable resumes the run", file=sys.stderr)
            return EXIT_STOPPED
        _report(died or error, log, begin)
        return 1
    return 0


def _finished_already(run_dir: Path) -> int:
    print(f"run: {run_dir} is finished already")
    return 0


def _quiet() -> None:
    """Silence other packages' start-up messages, which would hide the line that a user should read."""
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

{mel_options.help_lines()}"""


def _report(error: BaseException, log: Path, begin: int) -> None:
    """Print two lines: the first cause, and where the rest is. `begin`: bytes of the log from earlier attempts."""
    with open(log, "a+", encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        said = failure.describe(error, file)
        traceback.print_exception(error, file=file)
    print(f"error: training failed: {said}\n  full log: {log}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
