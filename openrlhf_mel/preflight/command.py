"""`python -m openrlhf_mel.preflight`: detects errors before a job starts, and estimates what the job needs.

Runs on a login node or in CI: no GPU, no Ray, and neither torch nor upstream's command line is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight import (
    files,
    host,
    hub,
    lengths,
    memory,
    memory_limits,
    shapes,
    sizes,
    throughput,
    workload,
)
from openrlhf_mel.preflight.findings import Report, render
from openrlhf_mel.preflight.lengths import Budget, Responses
from openrlhf_mel.preflight.problems import Problem, refusals, warning
from openrlhf_mel.prompts import Templates
from openrlhf_mel.run import folder
from openrlhf_mel.settings import flags, inputs
from openrlhf_mel.settings.mel_options import Device
from openrlhf_mel.settings.placement import placement
from openrlhf_mel.settings.resolve import Settings, resolve
from openrlhf_mel.upstream import AGENT_EXECUTOR, contract

USAGE = """usage: python -m openrlhf_mel.preflight --config FILE.yaml [options] [--any.flag value ...]

Checks a configuration before a job is spent on it and estimates memory, tokens and hours. Exit code 0 (also with
warnings) or 2. The flags of openrlhf_mel.train are taken as well.

  --config FILE               the YAML file
  --nodes N, --gpus-per-node N   the allocation
  --gpu NAME                  %s (default: h100)
  --gpu-memory-gb G           memory of a GPU as sold, where it is not that of --gpu
  --node-memory-gb G          host memory of a node
  --mean-response-tokens N    mean length of a response (default: 40%% of rollout.max_new_tokens)
  --mean-question-tokens N    mean length of a question (default: counted, or 100 where the data is not read)
  --skip-files                look at neither model, data, disk nor run folder
  --json                      all numbers as JSON
"""


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 when something is refused."""
    parser = flags.Parser(prog="python -m openrlhf_mel.preflight", add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--gpu", choices=sorted(workload.cards()), default="h100")
    for name in ("nodes", "gpus-per-node", "mean-response-tokens", "mean-question-tokens"):
        parser.add_argument(f"--{name}", type=_positive(int))
    for name in ("gpu-memory-gb", "node-memory-gb"):
        parser.add_argument(f"--{name}", type=_positive(float))
    for switch in ("--skip-files", "--json", "--help", "-h"):
        parser.add_argument(switch, action="store_true")
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        own, rest = parser.parse_known_args(arguments)
        if own.help or own.h:
            print(USAGE % ", ".join(sorted(workload.cards())))
            return 0
        if (own.nodes is None) != (own.gpus_per_node is None):
            raise UserError("--nodes and --gpus-per-node: found one of them, expected both")
        report = check(own, rest)
    except UserError as error:
        report = Report(problems=[Problem(text) for text in error.args])
    report.problems.sort(key=lambda problem: not problem.error)
    print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) if as_json else render(report))
    for problem in report.problems:
        print(f"{'error' if problem.error else 'warning'}: {problem.text}", file=sys.stderr)
    return 2 if report.refused else 0


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"found {text}, expected more than 0")
        return value

    parse.__name__ = {int: "whole number", float: "number"}[kind]
    return parse


def check(own: argparse.Namespace, rest: list[str]) -> Report:
    """Every check and estimate. Raises UserError when the configuration cannot be read at all."""
    described = own.nodes or own.gpus_per_node or own.gpu_memory_gb
    device: Device = "cuda" if described or os.path.exists("/dev/nvidiactl") else "cpu"
    contradictions: list[str] = []
    given = resolve(
        own.config, rest, device=device, agent_executor=AGENT_EXECUTOR, contradictions=contradictions,
        begun=None if own.skip_files else folder.begun,
    )  # fmt: skip
    settings = workload.usable(given)
    report = Report(config=own.config, runtime=settings.mel.runtime, problems=[Problem(t) for t in contradictions])
    values, note = settings.upstream, report.problems.extend
    note(map(warning, given.warnings))
    cuda = settings.mel.runtime == "cuda"
    gpus = placement(values, engines_need_gpus=cuda or settings.mel.cpu_engine == "vllm")
    note(sizes.batches(values))
    note(sizes.switches(given))
    note(refusals(contract.check_version))
    note(refusals(inputs.check_templates, settings))
    if cuda:
        note(sizes.allocation(values, gpus, own.nodes, own.gpus_per_node))
    config = _files(settings, report) if not own.skip_files else None
    tokens = files.Tokens(values["actor.model_name_or_path"])
    mean, longest = _questions(settings, report, tokens, own)
    shape, source = shapes.find(values["actor.model_name_or_path"], config)
    report.model = {"source": source, "parameters": shape.parameters if shape else None}
    budget = workload.budget(settings, _templates(settings), tokens, own.mean_question_tokens or mean, longest)
    mean_response = own.mean_response_tokens or max(1, round(workload.RESPONSE_SHARE * budget.response))
    responses = Responses(mean_response, budget.response)
    report.lengths = lengths.figures(budget, responses, tokens.exact)
    _lengths(settings, budget, responses, report)
    if shape is None:
        note([warning(f"memory and time are not estimated: {source}")])
        return report
    note(sizes.model(values, shape) if cuda else ())
    hw = workload.hardware(own.gpu, own.gpu_memory_gb, own.nodes, own.gpus_per_node)
    a_run = workload.memory_plan(settings, shape, hw, budget, responses)
    if not own.skip_files:
        note(_disk(settings, a_run, report))
    for flag in ("ds.ring_attn_size", "ds.tensor_parallel_size"):
        if values[flag] > 1:
            cuda = False
            note([warning(f"memory and time are not estimated with --{flag} {values[flag]}")])
    if values["ds.load_in_4bit"]:
        note([warning("--ds.load_in_4bit: the policy's weights are estimated as bf16")])
    if cuda:
        _memory(a_run, hw, gpus, report)
        note(memory_limits.check(a_run))
        note(host.check(report.host, own.node_memory_gb))
        step = throughput.estimate(workload.work(settings, a_run, hw, budget, responses))
        report.step = {"tokens": step.tokens, "seconds": step.seconds, "total_seconds": step.total}
        if report.rows:
            steps = min(report.rows, values["data.max_samples"]) // values["rollout.batch_size"]
            report.step["steps"] = steps * values["train.num_episodes"]
    return report


def _templates(settings: Settings) -> Templates:
    try:
        return Templates.load(settings.mel.template_dir)
    except UserError:  # reported already; the estimate uses the package's own
        return Templates.load()


def _files(settings: Settings, report: Report) -> dict[str, Any] | None:
    """Run the checks that read files; returns the model's config when it is on the hub."""
    values, note = settings.upstream, report.problems.extend
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not hub.is_local(settings):
        hub.stay_offline_where_it_is_out_of_reach()
    note(refusals(folder.check, settings.run_dir, settings.as_dict(), values["ckpt.load_enable"]))
    refused = list(refusals(inputs.check_model, settings))
    note(refused)
    name = values["actor.model_name_or_path"]
    if refused:
        return None
    if values["data.apply_chat_template"]:
        note(files.end_of_turn(name))
    if os.path.isdir(name):
        note(files.weights(Path(name)))
        note(files.tokenizer(Path(name), values["data.apply_chat_template"]))
        return None
    return inputs.model_json(name, "config.json", f"--actor.model_name_or_path {name}")


def _questions(settings: Settings, report: Report, tokens: files.Tokens, own: argparse.Namespace) -> tuple[int, int]:
    """Mean and longest question in tokens; reads the data unless files are skipped."""
    values = settings.upstream
    lengths = workload.MEAN_QUESTION, workload.LONGEST_QUESTION
    if own.skip_files:
        report.assumptions["questions"] = f"mean {lengths[0]} and longest {lengths[1]} tokens, not counted"
        return lengths
    read: dict[str, Any] = {}
    for flag in inputs.DATA:
        try:
            read[flag] = inputs.read_data(settings, flag)
        except UserError as error:
            report.problems.extend(map(Problem, error.args))
    data = read.get("data.prompt_dataset")
    if len(read) == len(inputs.DATA):
        report.problems.extend(refusals(inputs.check_evaluation, values, data, read["eval.dataset"]))
    if data is not None:
        report.rows = len(data)
        report.problems.extend(sizes.episode(values, len(data)))
        lengths = files.question_lengths(data, values["data.input_key"], tokens)
    return lengths


def _lengths(settings: Settings, budget: Budget, responses: Responses, report: Report) -> None:
    mel, note = settings.mel, report.problems.extend
    note(lengths.check_rollout(budget, counted=bool(report.rows)))
    if not mel.enable:
        return
    group = settings.upstream["rollout.n_samples_per_prompt"]
    share = lengths.share_too_long(budget, responses, group, mel.pair_selection)
    report.lengths |= {"room_for_two_responses": budget.room, "pairs_too_long_share": share}
    note(lengths.check_pairs(budget, responses, share))
    if mel.validation == "replay":
        note(lengths.check_replay(budget))


def _memory(a_run: memory.MemoryPlan, hw: workload.Hardware, gpus: Any, report: Report) -> None:
    report.devices = list(memory.devices(a_run))
    tokens = memory.kv_tokens(a_run)
    report.card = {"name": hw.name, "sold_gib": hw.memory_gib, "usable_gib": a_run.card / memory.GIB}
    report.engine = {
        "kv_bytes_per_token": a_run.shape.kv_bytes(a_run.engine_ranks),
        "kv_tokens": tokens,
        "sequences_of_max_len": tokens / a_run.max_len,
        "sequences_at_once": throughput.ENGINE_SEQUENCES,
    }
    per_node = hw.gpus_per_node or min(8, gpus.total)
    report.host = {name: size / memory.GIB for name, size in host.host_bytes(a_run, per_node).items()}


def _disk(settings: Settings, a_run: memory.MemoryPlan, report: Report) -> list[Problem]:
    values = settings.upstream
    every, saves = values["ckpt.save_steps"], None
    if report.rows and every > 0:
        steps = min(report.rows, values["data.max_samples"]) // values["rollout.batch_size"]
        saves = steps * values["train.num_episodes"] // every
    size = memory.checkpoint_bytes(a_run.shape.parameters, a_run.trained, a_run.stage)
    problems, report.disk = files.disk(settings, size, memory.BF16 * a_run.shape.parameters, saves)
    return problems
