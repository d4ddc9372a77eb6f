"""GPU memory and hours of an evaluation before it is submitted: python -m eval.cost --model NAME (see --help)."""

from __future__ import annotations

import argparse
import sys

from data import sources
from eval import arguments, markdown_table, sample_plan
from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight.evaluation import cost
from toolkit import cli

_GIB = 2**30


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    options = _parser().parse_args(argv)
    return cli.run(lambda: _run(options), print)


def _run(options: argparse.Namespace) -> str:
    known = sources.load(sources.BENCHMARKS)
    names = arguments.names(options.benchmarks)
    if unknown := [name for name in names if name not in known or not known[name].questions]:
        sized = ", ".join(name for name, source in known.items() if source.questions)
        raise UserError(
            f"--benchmarks: the number of questions of {', '.join(unknown)} is not known; expected some of {sized}; "
            "leave it out, or name one of about its size instead"
        )
    sizes = {name: known[name].questions[0] for name in names}
    draws = sample_plan.plan(options.samples, options.n, None, sizes)
    responses = sum(sizes[name] * (own.n + own.greedy) for name, own in draws.items())
    rows = []
    for most in options.max_tokens:
        found = cost(
            options.model, options.gpu, options.gpus, options.tensor_parallel, responses, most, options.mean_tokens
        )
        rows.append([
            f"{found.max_tokens:,}", f"{found.mean_tokens:,.0f}", f"{found.tokens / 1e6:,.1f}",
            f"{found.weights / _GIB:.1f}", f"{found.cache / _GIB:.1f}", str(found.at_once),
            f"{found.seconds / 3600:.2f}", f"{found.seconds / 3600 * options.gpus:.1f}",
        ])  # fmt: skip
    head = [
        "longest response (tokens)", "mean (assumed)", "all (million)", "weights (GiB a GPU)", "cache (GiB a GPU)",
        "sequences at once", "hours", "GPU hours",
    ]  # fmt: skip
    said = (
        f"{options.model} on {options.gpus} x {options.gpu}: {sum(sizes.values()):,} questions, {responses:,} responses"
    )
    return (
        f"{said}\n\n{markdown_table.table(head, rows)}\nAn order of magnitude: docs/preflight.md has the assumptions."
    )


def _lengths(text: str) -> list[int]:
    try:
        found = [int(number) for number in arguments.comma_list(text)]
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected whole numbers separated by commas")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.cost", description="Estimate the GPU memory and the hours of an evaluation.",
        allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="a model of the presets, or a folder with its config.json")
    add("--benchmarks", default=arguments.PAPER_BENCHMARKS, metavar="LIST", help="as for eval.run")
    add("--samples", choices=sample_plan.PRESETS, help="as for eval.run")
    add("--n", type=int, metavar="N", help="as for eval.run")
    add("--max-tokens", type=_lengths, default=[4096, 32768], metavar="LIST", help="default: 4096,32768")
    add("--mean-tokens", type=int, metavar="N", help="of a response (default: 40%% of the longest)")
    add("--gpu", default="h100", metavar="NAME", help="default: h100")
    add("--gpus", type=int, default=8, metavar="N", help="default: 8")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs of one engine (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
