"""A page of evaluations: python -m eval.report OUT... --output DIR (see --help)."""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from data import sources
from eval.page import by_length, plots, reading, tables
from eval.page.browser import Browser
from eval.page.by_length import Bin, Measured
from eval.page.content_policy import content_policy
from eval.page.reading import Evaluation
from eval.store import Sample
from openrlhf_mel.errors import UserError
from toolkit import cli

PAGE = "index.html"
PICTURES = ("pass_at_k.png", "accuracy_by_length.png", "score_by_step.png", "radar.png")
_SOURCES = Path(__file__).parent / "page"
_LEAST_CHARACTERS = 200
_WITHHELD = "(left out: the benchmark's authors ask that its questions are not published; --show-withheld shows it)"


@dataclass(frozen=True)
class Lengths:
    """Accuracy by length: the unit of each benchmark, and its bins by label."""

    units: dict[str, str]
    bins: dict[str, dict[str, list[Bin]]]


@dataclass(frozen=True)
class Picture:
    """A plot in both themes, and its caption."""

    name: str
    caption: str
    light: bytes
    dark: bytes

    @property
    def width(self) -> int:
        """The width in the page's pixels, 96 per inch, computed from the PNG header."""
        return int.from_bytes(self.light[16:20], "big") * 96 // plots.DPI


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    options = _parser().parse_args(arguments)
    return cli.run(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.max_characters < _LEAST_CHARACTERS:
        raise UserError(f"--max-characters {options.max_characters}: expected at least {_LEAST_CHARACTERS}")
    if options.max_megabytes < 1:
        raise UserError(f"--max-megabytes {options.max_megabytes}: expected at least 1")
    paths = [path for out in options.out for path in reading.find(out)]
    evaluations = [reading.read(path, label) for path, label in zip(paths, _labels(paths, options.labels), strict=True)]
    browser = Browser([e.label for e in evaluations], options.max_characters, options.max_megabytes * 10**6)
    measured = read_questions(evaluations, browser, frozenset() if options.show_withheld else withheld())
    pictures = draw(evaluations, measured)
    page = render(evaluations, browser, measured, pictures).encode("utf-8", "xmlcharrefreplace")
    write(options.output, {p.name: p.light for p in pictures} | {PAGE: page}, outdated=PICTURES)
    print(f"{options.output / PAGE} ({len(page) / 1e6:.1f} MB)")


def _labels(paths: Sequence[Path], text: str | None) -> list[str]:
    if text is None:
        labels = [path.resolve().name for path in paths]
        if len(set(labels)) < len(labels):
            labels = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in paths]
    else:
        labels = [label.strip() for label in text.split(",")]
        if len(labels) != len(paths) or "" in labels:
            raise UserError(f"--labels {text!r}: expected {len(paths)} names, one an evaluation, with commas between")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"two evaluations would be called {twice[0]!r}; give every folder its name with --labels a,b")
    return labels


def withheld() -> frozenset[str]:
    """The benchmarks whose authors ask that questions are not published in plain text."""
    return frozenset(name for name, source in sources.load(sources.BENCHMARKS).items() if source.withheld)


def read_questions(
    evaluations: Sequence[Evaluation], browser: Browser, hidden: Collection[str] = frozenset()
) -> Lengths:
    """Read every sample once, into the browser and the statistics of lengths.

    Lengths are of the sampled responses, or of the greedy ones if there are none. Of the benchmarks `hidden` the browser
    gets no text of a question or a response.
    """
    found: dict[str, dict[str, list[Measured]]] = {name: {} for name in tables.benchmark_names(evaluations)}
    for model, evaluation in enumerate(evaluations):
        for name in evaluation.benchmarks:
            greedy = evaluation.drawn(name)[1] == 0
            rows = found[name].setdefault(evaluation.label, [])
            for number, (question, samples) in enumerate(evaluation.questions(name)):
                if name in hidden:
                    question = replace(question, problem=_WITHHELD)
                    browser.add(model, number, question, list(map(_without_texts, samples)))
                else:
                    browser.add(model, number, question, samples)
                rows += [
                    Measured(number, sample.tokens, len(sample.response), sample.status == "correct")
                    for sample in samples
                    if sample.greedy == greedy
                ]
    units = {name: all(map(by_length.counted, by_label.values())) for name, by_label in found.items()}
    return Lengths(
        {name: "tokens" if tokens else "characters" for name, tokens in units.items()},
        {
            name: {label: by_length.accuracy_by_length(rows, units[name]) for label, rows in by_label.items()}
            for name, by_label in found.items()
        },
    )


def _without_texts(sample: Sample) -> Sample:
    """The sample without the model's words, which may repeat the question; of an extracted answer a letter alone."""
    values = {field.name: getattr(sample, field.name) for field in fields(Sample)}
    for name in ("extracted", "lenient_extracted"):
        text = values[name]
        values[name] = text if text is None or re.fullmatch(r"\(?[A-Z]\)?", text) else _WITHHELD
    return Sample(**(values | {"response": _WITHHELD}))


def draw(evaluations: Sequence[Evaluation], measured: Lengths) -> list[Picture]:
    """The plots that these evaluations give."""
    drawings: list[tuple[Callable[[], Figure | None], str]] = [
        (
            lambda: plots.draw_pass_at_k(evaluations),
            "Pass@k of the sampled responses, unbiased; at k = 1 it is Avg@n. Bars are 95% intervals.",
        ),
        (
            lambda: plots.draw_lengths(evaluations, measured.bins, measured.units),
            "Accuracy by length of the response: bins by quantile, each at its median. Bars are 95% intervals, with "
            "questions as clusters.",
        ),
        (
            lambda: plots.draw_steps(evaluations),
            "Score by training step, per benchmark and on average; bars are 95% intervals.",
        ),
        (
            lambda: plots.draw_radar(evaluations),
            "The benchmarks side by side; of a training run its last checkpoint.",
        ),
    ]
    pictures = []
    for name, (drawing, caption) in zip(PICTURES, drawings, strict=True):
        light, dark = plots.png(drawing, "light"), plots.png(drawing, "dark")
        if light and dark:
            pictures.append(Picture(name, caption, light, dark))
    return pictures


def render(evaluations: Sequence[Evaluation], browser: Browser, measured: Lengths, pictures: Sequence[Picture]) -> str:
    """The page. Its content policy allows only its own style and script, by their hashes."""
    style, script = ((_SOURCES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    names = tables.benchmark_names(evaluations)
    shared, own = tables.facts(evaluations)
    environment = Environment(
        loader=FileSystemLoader(_SOURCES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": tables.percent, "title": plots.metric_title, "data_url": _data_url}
    return environment.get_template("report.html.j2").render(
        policy=content_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(browser.json()),
        browser=browser,
        evaluations=evaluations,
        shared=shared,
        own=list(zip(evaluations, own, strict=True)),
        names=names,
        overview=tables.overview(evaluations),
        average=tables.average_table(evaluations),
        benchmarks=[tables.benchmark_table(evaluations, name) for name in names],
        pass_at_k=[(name, *tables.pass_at_k_table(evaluations, name)) for name in names],
        lengths=measured,
        pictures=pictures,
        settings=tables.settings_table(evaluations),
    )


def write(target: Path, files: Mapping[str, bytes], outdated: Sequence[str]) -> None:
    """Write all files under temporary names, then rename them; remove an earlier page's plots that this one lacks."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {target}: {error.strerror}; name a folder that can be written") from None
    aside = {name: target / f".{name}.{os.getpid()}" for name in files}
    try:
        for name, data in files.items():
            with open(aside[name], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            os.replace(aside[name], target / name)
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
    for name in set(outdated) - files.keys():
        (target / name).unlink(missing_ok=True)


def _data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.report",
        description="Write DIR/index.html, one file that works without a network, and the plots beside it as PNG.",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        nargs="+",
        type=Path,
        help="a folder that python -m eval.run wrote, also with --run: then every checkpoint in it",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="the folder of the page")
    parser.add_argument(
        "--show-withheld",
        action="store_true",
        help="show questions and responses of benchmarks whose authors ask that they are not published (gpqa_diamond)",
    )
    parser.add_argument("--labels", metavar="A,B", help="names of the evaluations (default: of their folders)")
    parser.add_argument(
        "--max-characters",
        metavar="N",
        type=int,
        default=6000,
        help="responses longer than this are shortened (default: 6000)",
    )
    parser.add_argument(
        "--max-megabytes",
        metavar="N",
        type=int,
        default=50,
        help="the most that questions and responses may take; responses are shortened further where they take more (default: 50)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
