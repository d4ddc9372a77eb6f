"""Cost of vLLM's log-probs, which every step requests to measure the mismatch between rollout and training.

    python -m benchmarks.log_probs [--model FOLDER] [--responses 512] [--tokens 64] [--rounds 7]

One engine generates the same responses alternately with and without log-probs. Prints a Markdown table of tokens per
second. Sets no limit: `docs/method.md` states the cost.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

from openrlhf_mel.cpu import vllm_arguments

TOY = Path(__file__).resolve().parents[1] / "data" / "toy"
ASKED = {"with": 0, "without": None}  # vLLM's `logprobs`; 0: only the sampled tokens', as in the rollout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(TOY / "model"))
    parser.add_argument("--responses", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    os.environ.update(vllm_arguments.environment() | {"VLLM_LOGGING_LEVEL": "WARNING"})
    from vllm import LLM, SamplingParams

    rows = (TOY / "train.jsonl").read_text(encoding="utf-8").splitlines()[: options.responses]
    prompts = [json.loads(row)["input"] for row in rows]
    context = options.tokens + 128
    llm = LLM(
        options.model, dtype="float32", max_model_len=context, max_num_seqs=options.responses, seed=0,
        enable_prefix_caching=False, **vllm_arguments.engine_arguments(context, engines=1),
    )  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in ASKED}
    for number in range(options.rounds + 1):
        for name in list(ASKED)[:: 1 if number % 2 else -1]:
            how = SamplingParams(
                max_tokens=options.tokens, ignore_eos=True, temperature=1.0, seed=number, logprobs=ASKED[name]
            )
            begun = time.monotonic()
            llm.generate(prompts, how, use_tqdm=False)
            if number:  # the first round warms up
                found[name].append(len(prompts) * options.tokens / (time.monotonic() - begun))
    print("| log-probs | tokens a second, median |\n|---|---|")
    for name, rates in found.items():
        print(f"| {name} | {median(rates):,.0f} |")
    costs = sorted(1 - a / b for a, b in zip(found["with"], found["without"], strict=True))
    print(f"\nThey cost {median(costs):.1%} ({options.rounds} rounds, {costs[0]:.1%} to {costs[-1]:.1%})")


if __name__ == "__main__":
    main()
