"""From a person's verdicts to `audit.json`: the verifier's error rates, and what they do to the accuracy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from eval.auditing.drawing import Classes, Member
from eval.auditing.error_rates import ClassCount, accuracy_change, error_rate
from eval.auditing.judgements import RIGHT, UNSURE, Judgement
from eval.estimators import Estimate

FIGURES = "audit.json"

Found = Mapping[str, Judgement]  # the verdict on a response, by its key


def figures(classes: Classes, drawn: Classes, found: Found) -> dict[str, Any]:
    """The content of audit.json. Rates and changes are fractions, with 95% intervals; null while nothing can be said.

    In each class the verdicts count up to the first response of the random order that has none: those are a random
    sample, whatever the person chose to judge beyond.
    """
    counted = {suspicion: _first_judged(drawn[suspicion], found) for suspicion in classes}
    counts = {suspicion: _count(len(classes[suspicion]), counted[suspicion], found) for suspicion in classes}
    accepted = [count for suspicion, count in counts.items() if suspicion.accepted]
    rejected = [count for suspicion, count in counts.items() if not suspicion.accepted]
    responses = sum(count.responses for count in counts.values())
    used = [member for members in counted.values() for member in members]
    return {
        "responses": responses,
        "accepted": sum(count.responses for count in accepted),
        "accuracy": sum(count.responses for count in accepted) / responses,
        "false_positives": _entry(error_rate(accepted)),
        "false_negatives": _entry(error_rate(rejected)),
        "accuracy_change": _entry(accuracy_change(accepted, rejected)),
        "classes": {
            suspicion.name: {
                "accepted": suspicion.accepted,
                "responses": count.responses,
                "drawn": len(drawn[suspicion]),
                "judged": count.judged,
                "errors": count.errors,
                "unsure": count.unsure,
                "share": _entry(error_rate([count])),
            }
            for suspicion, count in counts.items()
        },
        "verdicts": {
            "counted": len(used),
            "not_counted": len(found) - len(used),
            "after_reveal": sum(found[member.key].revealed for member in used),
        },
        "misjudged": [
            {"response": member.key, "class": member.suspicion.name, "person": found[member.key].verdict}
            for members in classes.values()
            for member in members
            if member.key in found and _is_error(member, found)
        ],
    }


def text(result: Mapping[str, Any]) -> str:
    """The figures as a table and sentences, in percent and points."""
    lines = [f"{'class':<18}{'responses':>10}{'drawn':>7}{'judged':>8}{'errors':>8}{'unsure':>8}"]
    for name, row in result["classes"].items():
        numbers = row["responses"], row["drawn"], row["judged"], row["errors"], row["unsure"]
        lines.append(
            f"{name:<18}{numbers[0]:>10,}"
            + "".join(f"{n:>{w}}" for n, w in zip(numbers[1:], (7, 8, 8, 8), strict=True))
        )
    lines.append("")
    sizes = {"accepted": result["accepted"], "rejected": result["responses"] - result["accepted"]}
    for key, side in (("false_positives", "accepted"), ("false_negatives", "rejected")):
        share = _shown(result[key], "%") if sizes[side] else "none"
        lines.append(f"{key.replace('_', ' ')} among the {sizes[side]:,} {side} responses: {share}")
    change = _shown(result["accuracy_change"], " points", "+")
    lines.append(f"accuracy as judged: {100 * result['accuracy']:.2f}% of {result['responses']:,} responses")
    lines.append(f"true minus judged accuracy: {change}")
    verdicts = result["verdicts"]
    if verdicts["not_counted"]:
        lines.append(
            f"{verdicts['not_counted']} verdicts do not count: they come behind a drawn response without one, or are on "
            "responses that are not drawn"
        )
    if verdicts["after_reveal"]:
        lines.append(f"{verdicts['after_reveal']} verdicts were given after the verifier's was shown")
    return "\n".join(lines)


def _first_judged(members: Sequence[Member], found: Found) -> list[Member]:
    return list(takewhile(lambda member: member.key in found, members))


def _count(responses: int, judged: Sequence[Member], found: Found) -> ClassCount:
    unsure = sum(found[member.key].verdict == UNSURE for member in judged)
    return ClassCount(responses, len(judged), sum(_is_error(member, found) for member in judged), unsure)


def _is_error(member: Member, found: Found) -> bool:
    verdict = found[member.key].verdict
    return verdict != UNSURE and member.misjudged(right=verdict == RIGHT)


def _entry(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"value": estimate.value, "ci95": list(estimate.interval)}


def _shown(entry: Mapping[str, Any] | None, unit: str, sign: str = "") -> str:
    if entry is None:
        return "not known yet (a class has no counted verdict)"
    value, (low, high) = entry["value"], entry["ci95"]
    return f"{100 * value:{sign}.2f}{unit} [{100 * low:{sign}.2f}, {100 * high:{sign}.2f}]"
