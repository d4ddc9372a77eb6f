"""Judge the verifier: python -m eval.audit OUT (see --help)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from eval.auditing.audit_page import render
from eval.auditing.audit_server import AuditServer
from eval.auditing.drawing import Classes, by_class, draw, walk
from eval.auditing.figures import FIGURES, figures, text
from eval.auditing.judgements import JUDGEMENTS, Judgement, JudgementFile, current, read_judgements
from eval.auditing.session import AuditSession
from eval.auditing.texts import texts
from eval.page import reading
from eval.store import single
from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from toolkit import cli

_LEAST_CHARACTERS = 200


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code."""
    options = _parser().parse_args(arguments)
    return cli.run(
        lambda: _run(options),
        report=lambda result: print(text(result)),
        after="saved verdicts stay; the same command goes on",
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Let a person judge, then return the content of audit.json."""
    _check(options)
    evaluation = reading.read(single(options.folder), options.folder.resolve().name)
    wanted = options.benchmarks.split(",") if options.benchmarks else evaluation.benchmarks
    names = list(dict.fromkeys(name.strip() for name in wanted))
    classes = by_class(evaluation, names)
    drawn = draw(classes, options.per_class, options.seed)
    target = options.output or evaluation.folder
    path = target / JUDGEMENTS
    if options.no_serve:
        found = _saved(path, evaluation, classes)
        if not found:
            raise UserError(f"{path}: no verdict on these responses; without --no-serve this command takes them")
    else:
        with JudgementFile(path) as file:
            order = walk(drawn)
            shown = {audited.key: audited for audited in texts(evaluation, order)}
            session = AuditSession([shown[member.key] for member in order], _saved(path, evaluation, classes), file)
            _serve(session, evaluation.label, options)
        found = session.found
    result = {"seed": options.seed, "per_class": options.per_class, "benchmarks": names}
    result |= figures(classes, drawn, found)
    disk.write_json(target / FIGURES, result)
    return result


def _saved(path: Path, evaluation: reading.Evaluation, classes: Classes) -> dict[str, Judgement]:
    """The verdicts so far on responses of `classes`; no other response's text is kept, and none is kept for longer."""
    judgements = read_judgements(path)
    judged = {judgement.key for judgement in judgements}
    members = [member for own in classes.values() for member in own if member.key in judged]
    return current(path, judgements, texts(evaluation, members))


def _serve(session: AuditSession, name: str, options: argparse.Namespace) -> None:
    """Serve the page until an interrupt, the way to end an audit."""
    with AuditServer(
        options.port,
        lambda: render(name, session.order, session.found, options.max_characters),
        session.judge,
    ) as server:
        left = sum(audited.key not in session.found for audited in session.order)
        try:
            print(f"{len(session.order)} responses, {left} of them to judge: open {server.url}")
            print("Verdicts are saved as they come. Ctrl-C ends the audit and prints the estimate.", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print(flush=True)


def _check(options: argparse.Namespace) -> None:
    if options.per_class < 1:
        raise UserError(f"--per-class {options.per_class}: expected at least 1")
    if options.max_characters < _LEAST_CHARACTERS:
        raise UserError(f"--max-characters {options.max_characters}: expected at least {_LEAST_CHARACTERS}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.audit",
        description="Let a person judge the responses that the verifier most likely misjudged, and random other ones, on a "
        f"page on this machine; estimate the verifier's error rates. Verdicts are saved in {JUDGEMENTS}, the estimate in "
        f"{FIGURES}. No score is changed.",
    )
    parser.add_argument("folder", metavar="OUT", type=Path, help="a folder that python -m eval.run wrote")
    parser.add_argument("--benchmarks", metavar="A,B", help="of which benchmarks (default: all)")
    parser.add_argument(
        "--per-class", metavar="N", type=int, default=25, help="responses to judge in each class (default: 25)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random sample (default: 0)")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help=f"where {JUDGEMENTS} and {FIGURES} are (default: OUT)"
    )
    parser.add_argument("--no-serve", action="store_true", help="only the estimate from the saved verdicts")
    parser.add_argument("--port", type=int, default=0, help="of the page (default: any free one)")
    parser.add_argument(
        "--max-characters",
        metavar="N",
        type=int,
        default=20000,
        help="longer responses are shown without their middle (default: 20000)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
