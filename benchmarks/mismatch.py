"""Log-prob differences on the same tokens, per number format: between vLLM and transformers, and of each from fp32.

    .venv/bin/python -m benchmarks.mismatch MODEL --data FILE.jsonl [--chat] [--dtypes bfloat16,float32]

For all runs the model's weights are rounded to the first number format. vLLM's CPU build samples once, in that format,
at temperature 1. Then vLLM (in one pass over whole sequences) and transformers score these tokens. The softmax is in
fp32; the LM head's product is computed in the format's own precision (as upstream's Actor and vLLM do) and in fp32. The
reference is transformers in fp32. Prints Markdown tables of |difference of log-probs| in nats per token.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from openrlhf_mel.cpu import vllm_arguments
from openrlhf_mel.prompts import PromptFormat, Templates

SEED = 0
HEADS = ("model", "float32")  # the number format of the last matrix product
EDGES = (0.1, 0.5, 0.9)  # bins of the token's probability
Scores = list[list[float]]  # log-probs of each response's tokens


class Row(NamedTuple):
    """A prompt, a response, and the log-probs that vLLM returned when sampling it."""

    prompt: list[int]
    response: list[int]
    log_probs: list[float]


def in_vllm(model: str, dtype: str, head: str, rows: list[Row], tokens: int) -> tuple[list[Row], Scores]:
    """Return the rows and their log-probs from whole sequences; missing responses, up to `tokens` long, are sampled."""
    from vllm import LLM, SamplingParams

    longest = max(len(row.prompt) + max(len(row.response), tokens) for row in rows) + 1
    arguments = vllm_arguments.engine_arguments(longest, engines=1) | {
        "hf_overrides": {"head_dtype": head},
        "dtype": dtype,
    }
    llm = LLM(model, max_model_len=longest, seed=SEED, enable_prefix_caching=False, **arguments)
    if not rows[0].response:
        prompts = [{"prompt_token_ids": row.prompt} for row in rows]
        how = [SamplingParams(max_tokens=tokens, logprobs=0, seed=SEED + i) for i in range(len(rows))]
        found = [output.outputs[0] for output in llm.generate(prompts, how, use_tqdm=False)]
        rows = [
            Row(row.prompt, list(one.token_ids), log_probs(one.logprobs, one.token_ids))
            for row, one in zip(rows, found, strict=True)
        ]
    whole = [{"prompt_token_ids": row.prompt + row.response} for row in rows]
    outputs = llm.generate(whole, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    read = [output.prompt_logprobs[len(row.prompt) :] for row, output in zip(rows, outputs, strict=True)]
    return rows, [log_probs(found, row.response) for row, found in zip(rows, read, strict=True)]


def log_probs(found: Any, tokens: Sequence[int]) -> list[float]:
    """Pick the tokens' log-probs from vLLM's output, a mapping by token at each position."""
    return [at[token].logprob for at, token in zip(found, tokens, strict=True)]


@torch.inference_mode()
def in_transformers(model: str, dtype: str, rows: list[Row]) -> dict[str, Scores]:
    """Return the rows' log-probs for each number format of the head; the softmax is in fp32."""
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="eager").eval()
    head = policy.get_output_embeddings()
    found: dict[str, Scores] = {name: [] for name in HEADS}
    for row in rows:
        hidden = policy.base_model(torch.tensor([row.prompt + row.response])).last_hidden_state[0]
        hidden, chosen = hidden[len(row.prompt) - 1 : -1], torch.tensor(row.response)[:, None]
        for name in HEADS:
            logits = head(hidden) if name == "model" else hidden.float() @ head.weight.float().T
            found[name].append(logits.float().log_softmax(-1).gather(1, chosen)[:, 0].tolist())
    return found


def flat(scores: Scores) -> torch.Tensor:
    """All tokens' log-probs, (tokens,)."""
    return torch.tensor(list(chain.from_iterable(scores)), dtype=torch.float64)


def line(name: str, difference: torch.Tensor, probability: torch.Tensor) -> str:
    """Return a table row: mean, root mean square, maximum |difference|; then the mean per bin of token probability."""
    off = difference.abs()
    places = torch.bucketize(probability, torch.tensor(EDGES, dtype=probability.dtype))
    by = [off[places == i] for i in range(len(EDGES) + 1)]
    means = [f"{of.mean().item():.2g}" if len(of) else "" for of in by]
    return (
        f"| {name} | {off.mean():.2g} | {off.square().mean().sqrt():.2g} | {off.max():.2g} | "
        + " | ".join(means)
        + " |"
    )


def rounded(options: argparse.Namespace, dtype: str, folder: str) -> list[Row]:
    """Save the model in `dtype` to `folder`; return the prompts, rendered by the package's template or another."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.save_pretrained(folder)
    form = PromptFormat(Templates.load(options.template_dir), tokenizer, options.chat)
    lines = options.data.read_text(encoding="utf-8").splitlines()[: options.prompts]
    texts = [form.question(json.loads(text)[options.key]) for text in lines]
    return [Row(tokenizer(text, add_special_tokens=False)["input_ids"], [], []) for text in texts]


def options_() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="questions, one JSON object a line")
    parser.add_argument("--key", default="problem", help="where in a line the question is")
    parser.add_argument("--template-dir", type=Path, metavar="DIR", help="other templates than the package's")
    parser.add_argument("--chat", action="store_true", help="as the user's turn of the chat template")
    parser.add_argument("--prompts", type=int, default=16, help="questions, from the file's first on")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of a response")
    parser.add_argument("--dtypes", default="bfloat16,float32", help="number formats; the first one samples")
    return parser.parse_args()


def compare(model: str, dtypes: list[str], rows: list[Row], tokens: int) -> None:
    """Sample, score, print."""
    found: dict[str, torch.Tensor] = {}
    pairs: dict[str, torch.Tensor] = {}
    for dtype in dtypes:
        heads = {dtype: "model"} if dtype == "float32" else {dtype: "model", f"{dtype}, head in fp32": "float32"}
        for name, head in heads.items():
            # a separate process, so that its memory is freed
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows, scores = pool.submit(in_vllm, model, dtype, head, rows, tokens).result()
            found[f"vLLM, {name}"] = flat(scores)
        by_head = in_transformers(model, dtype, rows)
        for name, head in heads.items():
            found[f"transformers, {name}"] = flat(by_head[head])
            pairs[name] = found[f"vLLM, {name}"] - found[f"transformers, {name}"]
    pairs["vLLM as sampled - vLLM reading the whole"] = flat([r.log_probs for r in rows]) - found[f"vLLM, {dtypes[0]}"]
    reference = flat(in_transformers(model, "float32", rows)["model"])
    print(f"{len(rows)} responses, {len(reference)} tokens, {-reference.mean():.2f} nats a token; {platform.machine()}")
    columns = ["mean", "root mean square", "largest", *(f"p up to {edge}" for edge in EDGES), "above"]
    against = {name: scores - reference for name, scores in found.items()}
    for title, table in {"against fp32": against, "vLLM - transformers": pairs}.items():
        print(f"\n| {title} | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
        for name, difference in table.items():
            print(line(name, difference, reference.exp()))


def main() -> None:
    """The command line."""
    options = options_()
    os.environ.update(
        vllm_arguments.environment() | {"VLLM_LOGGING_LEVEL": "ERROR"}
    )  # its log would mix with the tables
    torch.set_num_threads(1)
    dtypes = options.dtypes.split(",")
    with tempfile.TemporaryDirectory() as folder:
        compare(folder, dtypes, rounded(options, dtypes[0], folder), options.tokens)


if __name__ == "__main__":
    main()
