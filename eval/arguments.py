"""The command line of `python -m eval.run`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from data import sources
from eval import backends, prompt_comparison, sample_plan, seed_folders, thinking_end
from eval.backends.number_format import AUTO, FORMATS
from eval.benchmark_questions import DEFAULT, TEMPLATES
from eval.messages import Sampling
from eval.results import CHECKPOINTS
from eval.store import SAMPLES, SETTINGS
from openrlhf_mel.errors import UserError

PAPER_BENCHMARKS = "aime24,aime25,amc23,math500,olympiadbench"
LAST = "last"
# Flags that only some backends take: by the names of their classes' arguments, and others.
_BACKENDS_OF = {
    "base_url": ("openai",),
    "concurrency": ("openai",),
    "tensor_parallel": ("vllm",),
    "data_parallel": ("vllm",),
    "trust_remote_code": ("vllm", "hf"),
    "dtype": ("vllm", "hf"),
    "token_budget": ("hf",),
}
_TAKERS = _BACKENDS_OF | {"shorten": ("vllm", "hf")}
_COUNTS = ("max_tokens", "limit", "concurrency", "tensor_parallel", "data_parallel", "token_budget")


def backend_options(options: argparse.Namespace) -> dict[str, Any]:
    """The given options of the backend's class."""
    return {flag: getattr(options, flag) for flag in _BACKENDS_OF if getattr(options, flag) is not None}


def check_backend(options: argparse.Namespace) -> None:
    """Refuse flags that the backend does not take, and require those that it needs."""
    for flag, takers in _TAKERS.items():
        if getattr(options, flag) is not None and options.backend not in takers:
            raise UserError(
                f"--{flag.replace('_', '-')}: is for --backend {' or '.join(takers)}, found --backend {options.backend}"
            )
    if options.backend == "openai":
        if not options.base_url:
            raise UserError("--backend openai: needs --base-url, for example http://localhost:8000/v1")
        if options.run:
            raise UserError("--run: needs a backend that loads weights (vllm or hf), found --backend openai")
    for flag in ("run", "seeds", "shorten"):
        if options.templates and getattr(options, flag):
            raise UserError(
                f"--templates: compares prompts of one model, one seed and one length, found --{flag}; use --template"
            )
    if (options.checkpoints != LAST or options.keep_models) and not options.run:
        flag = "--keep-models" if options.checkpoints == LAST else "--checkpoints"
        raise UserError(f"{flag}: needs --run, a training run's folder")


def check_output(options: argparse.Namespace, seeds: Sequence[int]) -> None:
    """Refuse a folder with other files than evaluations, and one with the other kind: of several seeds, or not."""
    folder: Path = options.output_dir
    for flag, path in (("--data-dir", options.data_dir), ("--run", options.run), ("--model", options.model)):
        if path and folder.resolve() == Path(path).resolve():
            raise UserError(f"--output-dir {folder}: is {flag} as well; choose a folder of its own")
    own = (folder / name for name in (SETTINGS, SAMPLES, CHECKPOINTS))
    inside = (path for pattern in (SETTINGS, SAMPLES) for path in folder.glob(f"*/{pattern}"))
    several, prompts = seed_folders.existing(folder), prompt_comparison.existing(folder)
    one = any(path.exists() for path in own) or any(path.parent not in [*several, *prompts] for path in inside)
    if prompts and not options.templates:
        raise UserError(f"--output-dir {folder}: holds evaluations of --templates; choose another folder")
    if options.templates and (one or several):
        raise UserError(f"--output-dir {folder}: holds an evaluation without --templates; choose another folder")
    if several and not seeds:
        raise UserError(
            f"--output-dir {folder}: holds evaluations of several seeds; add --seeds or choose another folder"
        )
    if one and seeds:
        raise UserError(f"--output-dir {folder}: holds an evaluation without --seeds; choose another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (one or several or prompts):
        raise UserError(f"--output-dir {folder}: not empty, and no evaluation; choose another folder")


def sampling(options: argparse.Namespace) -> Sampling:
    """The sampling settings, checked. Raises UserError naming the flag of a number out of range."""
    for flag, valid, expected in (
        (
            "temperature",
            0 < options.temperature < math.inf,
            "a number above 0 (the greedy sample is drawn at 0 by itself)",
        ),
        ("top_p", 0 < options.top_p <= 1, "a number above 0, up to 1"),
        *((flag, (count := getattr(options, flag)) is None or count >= 1, "at least 1") for flag in _COUNTS),
    ):
        if not valid:
            raise UserError(f"--{flag.replace('_', '-')} {getattr(options, flag)}: expected {expected}")
    return Sampling(options.temperature, options.top_p, options.max_tokens)


def names(text: str) -> list[str]:
    """A list of benchmarks without duplicates."""
    names = list(dict.fromkeys(comma_list(text)))
    if not names:
        raise UserError("--benchmarks: found none, expected names separated by commas")
    return names


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected YYYY-MM-DD") from None


def comma_list(text: str) -> list[str]:
    """The names in a text that separates them by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_scorers(parser: argparse._ActionsContainer) -> None:
    """The flag that allows functions as scorers, which prepared data name."""
    parser.add_argument("--scorers", type=comma_list, default=[], metavar="LIST",
        help="your own functions that the data may name as their scorer (package.module:function)")  # fmt: skip


def add_thinking_end(parser: argparse._ActionsContainer, auto: str) -> None:
    """The flag for the end tag of thinking that prompts leave open; `auto`: what its default means."""
    parser.add_argument("--thinking-end", default=thinking_end.AUTO, metavar="TAG",
        help=f"the tag that ends a thinking which prompts begin, such as </think>; none; or auto: {auto} (default: auto)")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Every flag."""
    templates = ", ".join([DEFAULT, *sorted(path.stem for path in TEMPLATES.glob("*.txt"))])
    parser = argparse.ArgumentParser(
        prog="python -m eval.run",
        description="Draw one greedy and n sampled responses to each question, judge them, and write metrics.json and "
        "summary.md. The same command again goes on where it was stopped.",
        epilog="examples:\n"
        "  python -m eval.run --model Qwen/Qwen3-8B-Base --data-dir prepared/benchmarks --output-dir runs/eval-base\n"
        "  python -m eval.run --run runs/my-run --checkpoints all --data-dir prepared/benchmarks --output-dir runs/eval-my-run\n"
        "  python -m eval.run --backend openai --base-url http://localhost:8000/v1 --model NAME --data-dir prepared/benchmarks \\\n"
        "      --output-dir runs/eval-served",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_models(parser)
    _add_questions(parser, templates)
    _add_sampling(parser)
    _add_backend(parser)
    _add_results(parser)
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is evaluated")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="NAME", help="a folder, a name on the hub, or the name that a server serves")
    which.add_argument("--run", type=Path, metavar="DIR", help="a training run's folder: its checkpoints, one row each")
    group.add_argument(
        "--checkpoints", default=LAST, metavar="LIST", help="of --run: all, best, last, or steps (default: last)"
    )
    group.add_argument("--keep-models", action="store_true", help="keep converted checkpoints in OUT/models")


def _add_questions(parser: argparse.ArgumentParser, templates: str) -> None:
    group = parser.add_argument_group("questions")
    add = group.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="folder of data/prepare_benchmarks.py")
    add("--benchmarks", default=PAPER_BENCHMARKS, metavar="LIST",
        help=f"known are {', '.join(sources.load(sources.BENCHMARKS))} and files of your own (default: {PAPER_BENCHMARKS})")  # fmt: skip
    add("--limit", type=int, metavar="N", help="only the first N questions of each benchmark")
    which = group.add_mutually_exclusive_group()
    which.add_argument("--template", metavar="NAME",
        help=f"the question's prompt: {templates}, a file, or a template folder (default: the run's, else {DEFAULT})")  # fmt: skip
    which.add_argument("--templates", metavar="LIST",
        help="several, such as default,boxed,dapo: each is evaluated into OUT/template-<name>, and compared with the first")  # fmt: skip
    add("--chat", action="store_true",
        help="send the prompt as a user's message (default: as text; with --run as it was trained)")  # fmt: skip
    add_thinking_end(group, "by the model's chat template")
    add_scorers(group)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("--n", type=int, metavar="N", help="sampled responses a question (default: 8)")
    add("--samples", choices=sample_plan.PRESETS,
        help="paper: 1 greedy and 8 sampled responses; standard: 1 and 16, of benchmarks with up to 40 questions 1 and 32")  # fmt: skip
    add("--temperature", type=float, default=0.6, metavar="T", help="of the sampled ones (default: 0.6)")
    add("--top-p", type=float, default=1.0, metavar="P", help="of the sampled ones (default: 1)")
    add("--max-tokens", type=int, default=4096, metavar="N", help="where a response is cut (default: 4096)")
    add("--shorten", action="store_true", default=None,
        help="shorten --max-tokens to what fits beside the longest prompt, for --backend vllm or hf (default: refuse)")  # fmt: skip
    which = group.add_mutually_exclusive_group()
    # The default is a text, since argparse takes a value that is the default itself for one that was not given.
    which.add_argument("--seed", type=int, default="0", metavar="S", help="of the sampled ones (default: 0)")
    which.add_argument(
        "--seeds", metavar="LIST", help="several, such as 0,1,2: each is evaluated into OUT/seed-<N>; their mean and spread go "
        "into OUT/seeds.json and OUT/summary.md")  # fmt: skip


def _add_backend(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("backend").add_argument
    add("--backend", choices=list(backends.BACKENDS), default="vllm", help="what answers (default: vllm)")
    add("--base-url", metavar="URL", help="of an OpenAI-compatible server; its key, if any, in OPENAI_API_KEY")
    add("--concurrency", type=int, metavar="N", help="requests under way at once, for --backend openai (default: 64)")
    add("--tensor-parallel", type=int, metavar="N", help="GPUs of one engine, for --backend vllm (default: 1)")
    add("--data-parallel", type=int, metavar="N", help="engines, for --backend vllm (default: 1)")
    add("--dtype", choices=(AUTO, *FORMATS),
        help="of the weights, for --backend vllm or hf (default: auto, bfloat16 on a GPU and float32 on a CPU)")  # fmt: skip
    add("--token-budget", type=int, metavar="N", help="tokens of a batch, for --backend hf (default: 131072)")
    add("--trust-remote-code", action="store_true", default=None, help="run Python code that a model brings along")


def _add_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("results").add_argument
    add("--output-dir", type=Path, required=True, metavar="OUT", help="where samples and results go")
    add("--metrics", metavar="LIST", help="some of pass@1 (greedy), avg@<n>, pass@<k>, maj@<n> (default: these, with k = n)")  # fmt: skip
    add("--train-report", type=Path, metavar="FILE",
        help="report.json of data/prepare_train.py: shows contamination beside the scores")  # fmt: skip
    add("--model-date", type=_day, metavar="YYYY-MM-DD",
        help="the last day from which the model's data may be, its training's included: benchmarks published later are clean "
        "(default: known of the presets' models)")  # fmt: skip
    add("--paper", metavar="SIZE:METHOD",
        help="the paper's row to compare with, such as 8B:mel (default: told by the model's name)")  # fmt: skip
