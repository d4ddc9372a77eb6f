"""`python -m openrlhf_mel.preflight`: everything that can be known to be wrong before a job starts, and what it will need.

Runs on a login node or in CI: no GPU, no Ray, and neither torch nor upstream's command line is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight import files, host, hub, memory, shapes, sizes, throughput, workload
from openrlhf_mel.preflight.findings import Report, render
from openrlhf_mel.preflight.lengths import Budget, Responses, share_too_long
from openrlhf_mel.preflight.problems import Problem, refusals, warning
from openrlhf_mel.prompts import Templates
from openrlhf_mel.run import folder
from openrlhf_mel.settings import flags, inputs
from openrlhf_mel.settings.placement import placement
from openrlhf_mel.settings.resolve import Settings, resolve
from openrlhf_mel.upstream import contract

TIGHT = 0.95  # share of a card above which fragmentation may be the end
MANY_TOO_LONG, ALL_TOO_LONG = 0.25, 0.995
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
    device = "cuda" if described or os.path.exists("/dev/nvidiactl") else "cpu"
    contradictions: list[str] = []
    given = resolve(own.config, rest, device=device, contradictions=contradictions)
    settings = workload.usable(given)
    report = Report(config=own.config, runtime=settings.mel.runtime, problems=[Problem(t) for t in contradictions])
    values, note = settings.upstream, report.problems.extend
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
    lengths = workload.budget(settings, _templates(settings), tokens, own.mean_question_tokens or mean, longest)
    mean_response = own.mean_response_tokens or max(1, round(workload.RESPONSE_SHARE * lengths.response))
    responses = Responses(mean_response, lengths.response)
    note(_lengths(settings, lengths, responses, report, tokens.exact))
    if shape is None:
        note([warning(f"memory and time are not estimated: {source}")])
        return report
    note(sizes.model(values, shape) if cuda else ())
    hw = workload.hardware(own.gpu, own.gpu_memory_gb, own.nodes, own.gpus_per_node)
    a_run = workload.memory_plan(settings, shape, hw, lengths, responses)
    if not own.skip_files:
        note(_disk(settings, a_run, report))
    for flag in ("ds.ring_attn_size", "ds.tensor_parallel_size"):
        if values[flag] > 1:
            cuda = False
            note([warning(f"memory and time are not estimated with --{flag} {values[flag]}")])
    if values["ds.load_in_4bit"]:
        note([warning("--ds.load_in_4bit: the policy's weights are estimated as bf16")])
    if cuda:
        note(_memory(a_run, hw, gpus, report, own.node_memory_gb))
        step = throughput.estimate(workload.work(settings, a_run, hw, lengths, responses))
        report.step = {"tokens": step.tokens, "seconds": step.seconds, "total_seconds": step.total}
        if report.rows:
            steps = min(report.rows, values["data.max_samples"]) // values["rollout.batch_size"]
            report.step["steps"] = steps * values["train.num_episodes"]
    return report


def _templates(settings: Settings) -> Templates:
    try:
        return Templates.load(settings.mel.template_dir)
    except UserError:  # told already; the package's own stand in for the estimate
        return Templates.load()


def _files(settings: Settings, report: Report) -> dict[str, Any] | None:
    """The checks that read files; the model's config where it is from the hub."""
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
    """Mean and longest question in tokens; reads the data unless files are to be left alone."""
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


def _lengths(
    settings: Settings, lengths: Budget, responses: Responses, report: Report, exact: bool
) -> Iterator[Problem]:
    """Question and response, I + x + y+ + y- + M, and the replay, against `data.max_len`."""
    mel, most = settings.mel, lengths.max_len
    report.lengths = {
        "max_len": most,
        "instruction": lengths.instruction,
        "question_template": lengths.question,
        "replay_template": lengths.replay,
        "mean_question": lengths.mean_question,
        "longest_question": lengths.longest_question,
        "mean_response": responses.mean,
        "mean_response_cut": responses.average,
        "truncated_share": responses.truncated,
        "exact": exact,
    }
    if lengths.question + lengths.response >= most:
        yield Problem(
            f"--data.max_len {most}: --rollout.max_new_tokens {lengths.response} and the question's template "
            f"({lengths.question} tokens) leave no room for a question; raise it, or lower --rollout.max_new_tokens"
        )
    elif lengths.question + lengths.longest_question + lengths.response > most and report.rows:
        yield warning(
            f"--data.max_len {most}: the longest question ({lengths.longest_question} tokens) and others that leave no room "
            f"for --rollout.max_new_tokens {lengths.response} are left out of the data"
        )
    if not mel.enable:
        return
    group = settings.upstream["rollout.n_samples_per_prompt"]
    share = share_too_long(lengths, responses, group, mel.pair_selection)
    report.lengths |= {"room_for_two_responses": lengths.room, "pairs_too_long_share": share}
    parts = (
        f"I {lengths.instruction} + x {lengths.mean_question} + M {lengths.m} leave {lengths.room} tokens for two responses "
        f"of {responses.mean:.0f} on average (at most {responses.cap})"
    )
    needed = lengths.average_context + lengths.m + 2 * responses.cap
    remedy = (
        f"raise it ({needed} holds every pair), lower --mel.max_new_tokens or --rollout.max_new_tokens, or "
        "--mel.pair_selection shortest"
    )
    if share >= ALL_TOO_LONG:
        yield Problem(f"--data.max_len {most}: {parts}, so that practically no pair fits; {remedy}")
    elif share >= MANY_TOO_LONG:
        yield warning(f"--data.max_len {most}: {parts}; {share:.0%} of the pairs are too long (estimate); {remedy}")
    if mel.validation == "replay":
        prompt = lengths.replay + lengths.question + lengths.mean_question
        if prompt + lengths.replay_response >= most:
            yield Problem(
                f"--mel.replay_max_new_tokens {lengths.replay_response}: with the replay's prompt ({prompt} tokens without "
                f"M) it leaves no room for M in --data.max_len {most}; lower it, or raise --data.max_len"
            )
        elif prompt + lengths.m + lengths.replay_response > most:
            yield warning(
                f"--mel.replay_max_new_tokens {lengths.replay_response}: an M of more than "
                f"{most - prompt - lengths.replay_response} tokens (of at most {lengths.m}) is dropped as replay_too_long"
            )


def _memory(
    a_run: memory.Plan, hw: workload.Hardware, gpus: Any, report: Report, node_memory: float | None
) -> Iterator[Problem]:
    """Each kind of GPU against the card; the KV cache against `data.max_len`; host memory."""
    report.devices = list(memory.devices(a_run))
    tokens = memory.kv_tokens(a_run)
    report.card = {"name": hw.name, "sold_gib": hw.memory_gib, "usable_gib": a_run.card / memory.GIB}
    report.engine = {
        "kv_bytes_per_token": a_run.shape.kv_bytes(a_run.engine_ranks),
        "kv_tokens": tokens,
        "sequences_of_max_len": tokens / a_run.max_len,
        "sequences_at_once": throughput.ENGINE_SEQUENCES,
    }
    for device in report.devices:
        moment, need = device.peak()
        gib = f"{need / memory.GIB:.1f} GiB"
        card = f"the card has {a_run.card / memory.GIB:.1f}"
        if device.role == "engine":
            if need > a_run.card:
                yield Problem(
                    f"--vllm.gpu_memory_utilization {a_run.utilization}: an engine needs {gib}, {card}; lower it"
                )
            continue
        if device.role == "reference":
            if need > a_run.card:
                yield Problem(
                    f"memory of a GPU (reference): {gib}, {card}; lower --rollout.micro_batch_size or "
                    "--rollout.max_tokens_per_gpu, or --ds.zero_stage 3"
                )
            continue
        if need > a_run.card:
            found = [f"{text}: {left / memory.GIB:.1f}" for text, left in memory.remedies(a_run, TIGHT * a_run.card)]
            yield Problem(
                f"memory of a GPU ({device.role}): {gib} at {moment!r}, {card}; what to change, the cheapest first, with what "
                "is then needed: " + "; ".join(found or ["a smaller model"])
            )
        elif need > TIGHT * a_run.card:
            yield warning(
                f"memory of a GPU ({device.role}): {gib} at {moment!r}, {card}: tight, and fragmentation comes on top"
            )
    if tokens < a_run.max_len:
        yield Problem(
            f"--vllm.gpu_memory_utilization {a_run.utilization}: beside its weights an engine has room for {tokens} tokens "
            f"of KV cache, less than --data.max_len {a_run.max_len}, which vLLM refuses; raise it, or "
            "--vllm.tensor_parallel_size"
        )
    per_node = hw.gpus_per_node or min(8, gpus.total)
    report.host = {k: v / memory.GIB for k, v in host.host_bytes(a_run, per_node).items()}
    need = max(report.host.values())
    if node_memory and need > node_memory:
        yield Problem(
            f"host memory of a node: {need:.0f} GiB for {max(report.host, key=lambda k: report.host[k])} alone, found "
            f"{node_memory:.0f}; --ds.zero_stage 3 loads once a node, and --vllm.enable_sleep, --ds.enable_sleep and "
            "--ds.adam_offload move less when left out"
        )


def _disk(settings: Settings, a_run: memory.Plan, report: Report) -> list[Problem]:
    values = settings.upstream
    every, saves = values["ckpt.save_steps"], None
    if report.rows and every > 0:
        steps = min(report.rows, values["data.max_samples"]) // values["rollout.batch_size"]
        saves = steps * values["train.num_episodes"] // every
    size = memory.checkpoint_bytes(a_run.shape.parameters, a_run.trained, a_run.stage)
    problems, report.disk = files.disk(settings, size, memory.BF16 * a_run.shape.parameters, saves)
    return problems
