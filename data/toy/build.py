"""Rebuild the toy task: train.jsonl, test.jsonl and the tiny model with its tokenizer.

python -m data.toy.build [--output-dir data/toy] [--seed 0]
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import time
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from data.rows import question_row
from data.toy.arithmetic import FAMILIES, Family, ToyQuestion
from data.toy.corpus import Corpus, Example
from data.toy.tokenizer import train_tokenizer
from openrlhf_mel.prompts import Templates
from toolkit.outputs import json_lines, write_lines

TOY = Path(__file__).resolve().parent
TRAIN_PER_FAMILY = 500
TEST_PER_FAMILY = 64
CONTEXT = 4096
STEPS = 800
LEARNING_RATE = 3e-3
# Rows of each kind in a step. Kinds are padded separately: analyses are three times as long.
ROWS = {"solve": 40, "replay": 12, "analyse": 8}
_IGNORED = -100


def split_questions(rng: random.Random) -> tuple[list[ToyQuestion], list[ToyQuestion], dict[Family, list[ToyQuestion]]]:
    """Disjoint training and held-out questions, balanced over families, and the pre-training pool without the latter."""
    train: list[ToyQuestion] = []
    test: list[ToyQuestion] = []
    pool: dict[Family, list[ToyQuestion]] = {}
    for family in FAMILIES:
        questions = [ToyQuestion(family, operands) for operands in family.operands]
        rng.shuffle(questions)
        test += questions[:TEST_PER_FAMILY]
        train += questions[TEST_PER_FAMILY : TEST_PER_FAMILY + TRAIN_PER_FAMILY]
        pool[family] = questions[TEST_PER_FAMILY:]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test, pool


def rows(questions: list[ToyQuestion]) -> list[dict[str, str]]:
    """The questions as prepare_train.py writes them, in the order of their ids."""
    found = (question_row(question.text, str(question.right.result), "toy") for question in questions)
    return sorted(found, key=lambda row: row["id"])


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 of 0.6 million parameters."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def pretrain(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, rng: random.Random) -> None:
    """Teach the three skills by SFT: the mean NLL of the targets' tokens, the end token included."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    model.train()
    bar = tqdm(range(STEPS), desc="pre-training", unit="step", mininterval=2)
    for _ in bar:
        batches = [_encode(tokenizer, [getattr(corpus, kind)(rng) for _ in range(n)]) for kind, n in ROWS.items()]
        targets = sum(int((labels != _IGNORED).sum()) for _, labels in batches)
        total = 0.0
        for ids, labels in batches:
            loss = torch.nn.functional.cross_entropy(
                model(input_ids=ids).logits[:, :-1].flatten(0, 1),
                labels[:, 1:].flatten(),
                ignore_index=_IGNORED,
                reduction="sum",
            )
            torch.autograd.backward(loss / targets)
            total += loss.item() / targets
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(nll=f"{total:.3f}", refresh=False)
    model.eval()


def _encode(tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, both (B, T), padded on the right, so that the causal mask hides the padding."""
    prompts = tokenizer([e.prompt for e in examples], add_special_tokens=False)["input_ids"]
    targets = tokenizer([e.target for e in examples], add_special_tokens=False)["input_ids"]
    width = max(len(p) + len(t) + 1 for p, t in zip(prompts, targets, strict=True))
    ids = torch.full((len(examples), width), tokenizer.pad_token_id)
    labels = torch.full((len(examples), width), _IGNORED)
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        row = torch.tensor([*prompt, *target, tokenizer.eos_token_id])
        ids[i, : len(row)] = row
        labels[i, len(prompt) : len(row)] = row[len(prompt) :]
    return ids, labels


def build(output: Path, seed: int) -> None:
    """Write the two data files and `model/` below `output`."""
    output.mkdir(parents=True, exist_ok=True)
    # A second thread slows down such small matrices, most of all on shared cores.
    torch.set_num_threads(1)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    train, test, pool = split_questions(rng)
    for name, questions in (("train.jsonl", train), ("test.jsonl", test)):
        write_lines(output / name, json_lines(rows(questions)))

    corpus = Corpus(pool, Templates.load(TOY / "templates"))
    kinds = (corpus.solve, corpus.analyse, corpus.replay)
    examples = [draw(rng) for _ in range(1500) for draw in kinds]
    tokenizer = train_tokenizer(itertools.chain.from_iterable((e.prompt, e.target) for e in examples), CONTEXT)
    model = new_model(tokenizer)
    pretrain(model, tokenizer, corpus, rng)

    aside = output / "model.partial"
    shutil.rmtree(aside, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    shutil.rmtree(output / "model", ignore_errors=True)
    aside.rename(output / "model")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=TOY, help="where to write (default: data/toy)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    build(options.output_dir, options.seed)
    print(f"built {options.output_dir} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
