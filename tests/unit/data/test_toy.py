"""The built-in task: right labels, disjoint questions, a tokenizer that loses nothing, a model that is small and loads."""

import ast
import json
import operator
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.toy import build
from data.toy.arithmetic import FAMILIES, ToyQuestion, experience, heuristic
from data.toy.corpus import Corpus
from data.toy.tokenizer import train_tokenizer
from eval.backends import make
from eval.messages import STOP, Request, Sampling
from openrlhf_mel.prompts import Templates
from openrlhf_mel.verifier import verify
from toolkit.outputs import json_lines

TOY = Path(__file__).parents[3] / "data" / "toy"
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow}
QUESTIONS = st.sampled_from(FAMILIES).flatmap(
    lambda family: st.sampled_from(family.operands).map(lambda operands: ToyQuestion(family, operands))
)
LATEX = "Solve $\\frac{1}{2}x^{2}=\\boxed{{3}}$ für 你好 🙂\n\t {{question}} <|end|>"


def value(question: str) -> int:
    """Evaluate a question's expression, by Python's own grammar."""

    def walk(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant)
        return node.value

    expression = re.fullmatch(r"Compute (.+)\.", question)[1]
    return walk(ast.parse(expression.replace("^", "**"), mode="eval").body)


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (TOY / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOY / "model")


@pytest.fixture(scope="module")
def templates():
    return Templates.load(TOY / "templates")


@pytest.mark.parametrize(("name", "least"), [("train.jsonl", 2000), ("test.jsonl", 200)])
def test_every_label_is_the_value_of_its_question(name, least):
    data = rows(name)
    assert len(data) >= least
    for row in data:
        assert row.keys() == {"id", "input", "label", "datasource"}
        assert row["datasource"] == "toy"
        assert row["label"] == str(value(row["input"]))
    assert len({row["id"] for row in data}) == len(data)


def test_files_are_what_the_writer_of_the_training_sets_makes():
    train, test, _ = build.split_questions(random.Random(0))
    for name, questions in (("train.jsonl", train), ("test.jsonl", test)):
        written = "".join(json_lines(build.rows(questions)))
        assert (TOY / name).read_text(encoding="utf-8") == written


def test_no_question_stands_twice():
    questions = [row["input"] for name in ("train.jsonl", "test.jsonl") for row in rows(name)]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl"])
def test_families_are_balanced(name):
    shapes = Counter(re.sub(r"\d+", "0", row["input"].replace("^2", "^")) for row in rows(name))
    assert len(shapes) == len(FAMILIES)
    assert len(set(shapes.values())) == 1


@given(QUESTIONS)
def test_right_reasoning_is_right_and_the_trap_is_wrong(question):
    answer = str(value(question.text))
    assert verify(question.right.text, answer).correct
    assert not verify(question.trap.text, answer).correct
    assert "-" not in "".join(step.split("=")[1] for s in (question.right, question.trap) for step in s.steps)


@given(QUESTIONS, st.integers(0, 2**32))
def test_a_slip_is_one_false_step_and_a_wrong_answer(question, seed):
    solution, step = question.slip(random.Random(seed))
    assert not verify(solution.text, str(question.right.result)).correct
    assert step in solution.steps

    def holds(written: str) -> bool:
        left, right = written.split("=")
        return value(f"Compute {left}.") == int(right)

    assert [s for s in solution.steps if not holds(s)] == [step]


@given(st.sampled_from(FAMILIES), st.integers(0, 2**32), st.booleans())
def test_heuristics_hold_no_numbers(family, seed, check):
    assert not re.search(r"\d", heuristic(family, random.Random(seed), check))


def test_experiences_have_the_headings_of_the_templates(templates):
    lines = experience("5-3=2", "why", "if a, b").splitlines()
    assert [line.split(":")[0] for line in lines] == list(templates.sections)


@given(st.text())
@example(LATEX)
@example("a  b .  , n't\r\n\x00")
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_stand_alone_and_no_text_needs_an_unknown_token(tokenizer):
    assert 320 <= len(tokenizer) <= 400
    assert tokenizer.unk_token is None
    assert not [entry for entry in tokenizer.get_vocab() if re.search(r"\d.|.\d", entry)]


def test_the_chat_template_ends_where_the_response_starts(tokenizer):
    turns = [{"role": "user", "content": "Compute 1+1."}, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|user|>Compute 1+1.<|assistant|>2<|end|>"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>Compute 1+1.<|assistant|>"
    assert len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) == 2 + len(
        tokenizer("Compute 1+1.", add_special_tokens=False)["input_ids"]
    )


def test_texts_are_as_short_as_the_demo_needs(tokenizer, templates):
    corpus = Corpus({family: [ToyQuestion(family, o) for o in family.operands] for family in FAMILIES}, templates)
    rng = random.Random(0)

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    solved = [corpus.solve(rng) for _ in range(200)]
    assert max(tokens(e.prompt) + tokens(e.target) + 1 for e in solved) < 64
    analyses = [corpus.analyse(rng) for _ in range(200)]
    assert max(tokens(e.prompt) for e in analyses) < 120
    assert max(tokens(e.target) + 1 for e in analyses) < 64


def test_the_model_is_small_and_loads_as_it_is(tokenizer):
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    assert sum(file.stat().st_size for file in (TOY / "model").iterdir()) <= 3 * 2**20
    config = AutoConfig.from_pretrained(TOY / "model")
    assert (config.model_type, config.max_position_embeddings >= 4096) == ("qwen3", True)
    assert not hasattr(config, "auto_map")
    generation = GenerationConfig.from_pretrained(TOY / "model")
    for holder in (config, generation):
        assert (holder.eos_token_id, holder.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = AutoModelForCausalLM.from_pretrained(TOY / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_the_model_solves_some_questions_and_ends_its_responses(templates):
    labels = {row["id"]: row["label"] for row in rows("test.jsonl")[:64]}
    requests = [
        Request("test", row["id"], sample, False, sample, templates.question(row["input"]))
        for row in rows("test.jsonl")[:64]
        for sample in range(4)
    ]
    backend = make("hf", model=str(TOY / "model"), chat=False)
    responses = list(backend.generate(requests, Sampling(temperature=1.0, top_p=1.0, max_tokens=64)))
    right = [verify(response.text, labels[response.request.question]).correct for response in responses]
    # Measured 0.30 to 0.40 on all held-out questions; wider bounds for the noise of 64 questions.
    assert 0.2 < sum(right) / len(right) < 0.5
    assert sum(response.finish_reason == STOP for response in responses) > 0.95 * len(right)


def test_a_tokenizer_trained_on_little_still_encodes_everything():
    small = train_tokenizer(["Compute 1+1."], context=4096)
    assert small.decode(small(LATEX, add_special_tokens=False)["input_ids"]) == LATEX
