"""Preflight's report, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from openrlhf_mel.preflight import memory
from openrlhf_mel.preflight.memory import DeviceMemory
from openrlhf_mel.preflight.problems import Problem
from openrlhf_mel.preflight.throughput import ASSUMPTIONS


@dataclass
class Report:
    """The results, filled in as far as the checks run."""

    config: str | None = None
    runtime: str | None = None
    problems: list[Problem] = field(default_factory=list)
    rows: int | None = None
    model: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    devices: list[DeviceMemory] = field(default_factory=list)
    engine: dict[str, Any] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    lengths: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    disk: dict[str, Any] = field(default_factory=dict)
    assumptions: dict[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether there is an error."""
        return any(problem.error for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; memory in GiB."""
        plain = asdict(self)
        del plain["problems"], plain["devices"]
        return {
            "verdict": "refused" if self.refused else "ok",
            "errors": [p.text for p in self.problems if p.error],
            "warnings": [p.text for p in self.problems if not p.error],
            **plain,
            "gpus": [_device(device) for device in self.devices],
            "assumptions": ASSUMPTIONS | self.assumptions if self.step else self.assumptions,
        }


def _device(device: DeviceMemory) -> dict[str, Any]:
    moment, need = device.peak()
    moments = {m: {k: v / memory.GIB for k, v in parts.items()} for m, parts in device.moments.items()}
    return {
        "role": device.role,
        "count": device.count,
        "moments": moments,
        "peak": moment,
        "peak_gib": need / memory.GIB,
    }


def render(report: Report) -> str:
    """The report as text; problems are printed separately."""
    blocks = [_head(report), *_memory(report), _lengths(report), _step(report), _disk(report)]
    errors = sum(p.error for p in report.problems)
    warnings = len(report.problems) - errors
    verdict = "refused" if errors else "ok"
    counts = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in ((errors, "error"), (warnings, "warning")))
    return "\n\n".join([*filter(None, blocks), f"verdict: {verdict} ({counts})"])


def _head(report: Report) -> str:
    if not report.model:
        return ""
    size = report.model["parameters"]
    model = f"{size / 1e9:.3g} B parameters" if size else "unknown size"
    rows = f"; {report.rows} questions" if report.rows else ""
    return f"{report.config or 'command line'}: {model} ({report.model['source']}); runtime {report.runtime}{rows}"


def _memory(report: Report) -> list[str]:
    blocks = []
    for device in report.devices:
        moments = list(device.moments)
        lines = [f"{f'GiB, {device.count} x {device.role}':<28}" + "".join(f"{m:>11}" for m in moments)]
        for part in memory.PARTS:
            row = [device.moments[m].get(part, 0) / memory.GIB for m in moments]
            if max(row) >= 0.05:
                lines.append(f"  {part:<26}" + "".join(f"{v:>11.1f}" for v in row))
        totals = [sum(parts.values()) / memory.GIB for parts in device.moments.values()]
        lines.append(f"  {'total':<26}" + "".join(f"{v:>11.1f}" for v in totals))
        moment, need = device.peak()
        usable = report.card["usable_gib"]
        lines.append(
            f"  {need / memory.GIB:.1f} of {usable:.1f} GiB ({report.card['sold_gib']:g} GB {report.card['name']}) at {moment!r}: "
            + ("does not fit" if need > usable * memory.GIB else "fits")
        )
        blocks.append("\n".join(lines))
    if report.engine:
        e = report.engine
        blocks.append(
            f"KV cache of an engine: {e['kv_tokens']:,} tokens of {e['kv_bytes_per_token'] / 1024:.0f} KiB a GPU, "
            f"{e['sequences_of_max_len']:.1f} sequences of data.max_len (vLLM runs {e['sequences_at_once']} at once at most)\n"
            f"host memory of a node: {report.host['loading']:.0f} GiB while loading, "
            f"{report.host['offloaded']:.0f} GiB for what sleeps or is offloaded"
        )
    return blocks


def _lengths(report: Report) -> str:
    one = report.lengths
    if not one:
        return ""
    how = "by the model's tokenizer" if one["exact"] else "by characters"
    lines = [
        f"lengths in tokens ({how}): questions {one['mean_question']} on average, {one['longest_question']} at most; templates: "
        f"question {one['question_template']}, instruction {one['instruction']}, replay {one['replay_template']}",
        f"responses, assumed log-normal: {one['mean_response']:.0f} on average, {one['truncated_share']:.1%} truncated",
    ]
    if "pairs_too_long_share" in one:
        lines.append(
            f"I + x + y+ + y- + M against data.max_len {one['max_len']}: {one['room_for_two_responses']} for two responses; "
            f"{one['pairs_too_long_share']:.1%} of the pairs too long"
        )
    return "\n".join(lines)


def _step(report: Report) -> str:
    if not report.step:
        return ""
    tokens = ", ".join(f"{name} {count / 1e3:,.0f}k" for name, count in report.step["tokens"].items())
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in report.step["seconds"].items())
    total = report.step["total_seconds"]
    lines = [
        f"a step, under the assumptions of docs/preflight.md (expect half to twice): {total / 60:.1f} min, "
        f"{3600 / total:.1f} steps an hour",
        f"  tokens: {tokens}",
        f"  seconds: {seconds}",
    ]
    if steps := report.step.get("steps"):
        lines.append(f"  {steps} steps: {steps * total / 3600:.1f} h")
    return "\n".join(lines)


def _disk(report: Report) -> str:
    one = report.disk
    if not one:
        return ""
    return (
        f"disk: {one['needed_gb']:.1f} GB for {one['checkpoints']} checkpoints of {one['checkpoint_gb']:.1f} GB, "
        f"{one['copies']} copies and the model of {one['model_gb']:.1f} GB; {one['free_gb']:.1f} GB are free (quotas not seen)"
    )
