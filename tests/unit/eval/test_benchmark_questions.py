"""eval/benchmark_questions.py: accepted and refused files; a prompt reaches the model as in training."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data import prepare_benchmarks, prepare_train, sources
from eval.backends.model_folder import Encoder
from eval.benchmark_questions import TEMPLATES, load_benchmarks, load_template
from eval.messages import Question, Request
from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import DEFAULT_DIR, PromptFormat, Templates
from openrlhf_mel.verifier import shared_verifier

pytestmark = pytest.mark.timeout(60)

TOY = Path(__file__).parents[3] / "data" / "toy"
ROWS = [
    {"id": "m-1", "problem": "What is $1+1$?", "answer": "2", "datasource": "mine"},
    {"id": "m-2", "problem": " How long?\u2028é ", "answer": "3.5", "unit": "cm", "tolerance": 0.1, "source_id": 7},
    {"id": "m-3", "problem": "What is $x$?", "answer": "x", "unit": None},
]
QUESTIONS = [
    Question("mine", "m-1", "What is $1+1$?", "2"),
    Question("mine", "m-2", " How long?\u2028é ", "3.5", "cm", 0.1),
    Question("mine", "m-3", "What is $x$?", "x"),
]


def jsonl(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_become_questions_in_order(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", ROWS)
    jsonl(tmp_path / "other.jsonl", [ROWS[0] | {"id": "o-1"}])
    other, mine = load_benchmarks(tmp_path, ["other", "mine"], None)
    assert (mine.name, mine.questions, mine.sha256) == ("mine", QUESTIONS, sha256(path))
    assert [q.id for q in other.questions] == ["o-1"]


def test_a_benchmarks_scorer_is_that_of_its_rows(tmp_path, monkeypatch):
    own = tmp_path / "judges_of_mine.py"
    own.write_text("def f(answer, gold, question):\n    return answer == gold\n")
    monkeypatch.syspath_prepend(tmp_path)
    shared_verifier().close()  # workers keep the import paths from their start
    for name, scorer in (("a", None), ("b", "choice"), ("c", "judges_of_mine:f")):
        jsonl(tmp_path / f"{name}.jsonl", [row | {"scorer": scorer} for row in ROWS])
    with pytest.raises(
        UserError, match=r"c\.jsonl: .*scorer judges_of_mine:f: .*pass --scorers judges_of_mine:f if you"
    ):
        load_benchmarks(tmp_path, ["a", "b", "c"], None, ["judges_of_mine:g", "judges_of_mine"])
    found = load_benchmarks(tmp_path, ["a", "b", "c"], None, ["judges_of_mine:f"])
    assert [b.scorer for b in found] == ["math", "choice", f"judges_of_mine:f#{sha256(own)}"]
    assert [{q.scorer for q in b.questions} for b in found] == [{"math"}, {"choice"}, {"judges_of_mine:f"}]
    reference = found[1].questions[0].reference
    assert (reference, reference.scorer, reference.question) == ("2", "choice", "What is $1+1$?")


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        (["choice", "choice", "math"], "line 3: 'scorer': found 'math', expected one scorer in all rows"),
        (["choice", None, "choice"], "line 2: 'scorer': found 'math', expected one scorer in all rows"),
        (["chioce"] * 3, "'scorer': scorer 'chioce': expected math, choice"),
        ([["choice"]] * 3, "expected math, choice"),
        (["no_such_module_here:f"] * 3, "scorer no_such_module_here:f: cannot be imported"),
        (
            ["shutil.rmtree"] * 3,
            "scorer shutil.rmtree: the data name this function, which would be run; pass --scorers",
        ),
        ([""] * 3, "scorer '': expected math, choice"),
    ],
)
def test_scorers_that_cannot_be_used(tmp_path, scorers, message):
    jsonl(tmp_path / "mine.jsonl", [row | {"scorer": scorer} for row, scorer in zip(ROWS, scorers, strict=True)])
    with pytest.raises(UserError, match=message):
        load_benchmarks(tmp_path, ["mine"], None, ["no_such_module_here:f"])


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_a_limit_takes_the_first_questions_of_the_same_file(tmp_path, limit, count):
    path = jsonl(tmp_path / "mine.jsonl", ROWS)
    (mine,) = load_benchmarks(tmp_path, ["mine"], limit)
    assert mine.questions == QUESTIONS[:count]
    assert mine.sha256 == sha256(path)  # of the whole file, so that a larger limit can continue in the same folder


def test_what_prepare_benchmarks_wrote(tmp_path, capsys):
    aime = [{"problem": f"Find {i}+{i}.", "answer": f"{2 * i:03d}"} for i in range(30)]
    jsonl(tmp_path / "in" / "aime24.jsonl", aime)
    out = tmp_path / "out"
    argv = ["--input-dir", str(tmp_path / "in"), "--only", "aime24", "--output-dir", str(out)]
    assert prepare_benchmarks.main(argv) == 0, capsys.readouterr().err
    (loaded,) = load_benchmarks(out, ["aime24"], None)
    assert [(q.problem, q.answer) for q in loaded.questions] == [(r["problem"], str(int(r["answer"]))) for r in aime]
    assert loaded.sha256 == json.loads((out / "manifest.json").read_text())["outputs"]["aime24.jsonl"]
    (out / "aime24.jsonl").write_text((out / "aime24.jsonl").read_text().replace('"58"', '"59"'))
    with pytest.raises(UserError, match=r"aime24\.jsonl: its SHA-256 is .*changed after it was prepared"):
        load_benchmarks(out, ["aime24"], 1)


def test_a_validation_set_of_prepare_train(tmp_path, capsys):
    """It has training's columns, `input` and `label`."""
    rows = [
        {"question": f"Which number is {word}?", "answer": str(i)}
        for i, word in enumerate(["one", "two", "six", "ten"])
    ]
    path = jsonl(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out"
    argv = [
        "--source",
        "custom",
        "--input",
        str(path),
        "--validation",
        "2",
        "--max-similarity",
        "1",
        "--output-dir",
        str(out),
    ]
    assert prepare_train.main([*argv, "--skip", "decontamination"]) == 0, capsys.readouterr().err
    (loaded,) = load_benchmarks(out, ["validation"], None)
    assert {(q.problem, q.answer) for q in loaded.questions} < {(r["question"], r["answer"]) for r in rows}
    assert [q.id for q in loaded.questions] == [
        json.loads(line)["id"] for line in (out / "validation.jsonl").read_text().splitlines()
    ]
    assert len(loaded.questions) == 2 and {q.benchmark for q in loaded.questions} == {"validation"}


def test_the_toy_tests_questions():
    (toy,) = load_benchmarks(TOY, ["test"], 5)
    first = json.loads((TOY / "test.jsonl").read_text().splitlines()[0])
    assert toy.questions[0] == Question("test", first["id"], first["input"], first["label"])


def test_real_benchmarks(shared, tmp_path, capsys):
    raw = shared / "data" / "benchmarks" / "raw"
    if not raw.is_dir():
        pytest.skip(f"needs {raw}")
    argv = ["--input-dir", str(raw), "--only", "aime25,olympiadbench", "--output-dir", str(tmp_path)]
    assert prepare_benchmarks.main(argv) == 0, capsys.readouterr().err
    aime, olympiad = load_benchmarks(tmp_path, ["aime25", "olympiadbench"], None)
    assert (len(aime.questions), len(olympiad.questions)) == (30, 675)
    assert any(q.unit for q in olympiad.questions) and any(q.tolerance for q in olympiad.questions)


def test_an_unknown_benchmark_names_the_known_ones(tmp_path):
    jsonl(tmp_path / "mine.jsonl", ROWS)
    jsonl(tmp_path / "eval_all.jsonl", ROWS)
    known = ", ".join(sources.load(sources.BENCHMARKS))
    for name in ("aime2024", "../mine", "mine.jsonl", "eval_all", ""):
        with pytest.raises(UserError) as caught:
            load_benchmarks(tmp_path, ["mine", name], None)
        assert str(caught.value) == f"--benchmarks: unknown benchmark {name!r}; known are {known}, mine"


def test_a_known_benchmark_that_is_not_prepared_says_how(tmp_path):
    for name in ("aime24", "gpqa_diamond"):  # the latter is made by its name alone
        with pytest.raises(UserError) as caught:
            load_benchmarks(tmp_path, [name], None)
        advice = f"python -m data.prepare_benchmarks --only {name} --output-dir {tmp_path} makes it"
        assert str(caught.value) == f"--benchmarks: no {name}.jsonl in {tmp_path}, which has none; {advice}"
    jsonl(tmp_path / "mine.jsonl", ROWS)
    with pytest.raises(UserError, match=r"which has mine; "):
        load_benchmarks(tmp_path, ["mine", "aime24"], None)
    with pytest.raises(UserError, match=r"--data-dir .*/none: no such folder; python -m data\.prepare_benchmarks"):
        load_benchmarks(tmp_path / "none", ["aime24"], None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "m-1"}, r"line 4: the id 'm-1' stands twice"),
        ({"id": 4}, r"line 4: 'id': found 4, expected a text"),
        ({"id": None}, r"line 4: 'id': found None"),
        ({"problem": ""}, r"line 4: 'problem': found '', expected a text; prepare the benchmark"),
        ({"problem": ["x"]}, r"line 4: 'problem': found"),
        ({"problem": '[{"role": "user", "content": "p"}]'}, r"line 4: 'problem': found a conversation stored as text"),
        ({"problem": "[{'role': 'user', 'content': 'p'}]"}, r"line 4: 'problem': found a conversation stored as text"),
        ({"problem": "array([{'role': 'user'}])"}, r"line 4: 'problem': found a conversation stored as text"),
        ({"answer": 7}, r"line 4: 'answer': found 7"),
        ({"answer": " \n"}, r"line 4: 'answer': found"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, row, message):
    jsonl(tmp_path / "mine.jsonl", [*ROWS, {"id": "m-4", "problem": "p", "answer": "2"} | row])
    for limit in (None, 1):  # the whole file is checked in any case
        with pytest.raises(UserError, match=rf"mine\.jsonl, {message}"):
            load_benchmarks(tmp_path, ["mine"], limit)


@pytest.mark.parametrize("content", ["", "\n\n", "[1]\n", '{"id": "m-1"'])
def test_a_file_without_questions_is_named(tmp_path, content):
    (tmp_path / "mine.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"mine\.jsonl"):
        load_benchmarks(tmp_path, ["mine"], None)


def test_a_changed_file_is_refused(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", ROWS)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"outputs": {"mine.jsonl": sha256(path)}}))
    load_benchmarks(tmp_path, ["mine"], None)
    jsonl(path, [*ROWS[:2], ROWS[2] | {"answer": "y"}])
    with pytest.raises(UserError, match=r"mine\.jsonl: its SHA-256 is .* manifest\.json beside it says"):
        load_benchmarks(tmp_path, ["mine"], 1)
    manifest.write_text(json.dumps({"outputs": {"another.jsonl": "0" * 64}}))  # a file that the user added
    load_benchmarks(tmp_path, ["mine"], None)


@given(st.text())
def test_the_default_prompt_is_that_of_training(question):
    assert load_template("default").prompt(question) == Templates.load().question(question)


def test_templates_by_name_file_and_folder(tmp_path):
    (tmp_path / "question.txt").write_text("In a folder: {{question}}\n")
    (tmp_path / "own.txt").write_text("{{question}} and {{question}}")
    found = {name: load_template(name) for name in ("default", *(path.stem for path in TEMPLATES.glob("*.txt")))}
    assert {"default", "boxed", "question"} <= found.keys()
    assert [template.name for template in found.values()] == list(found)
    assert found["question"].prompt("What?") == "What?"
    assert found["boxed"].prompt("What?").startswith("What?\n") and r"\boxed{}" in found["boxed"].prompt("What?")
    folder, own = load_template(str(tmp_path)), load_template(str(tmp_path / "own.txt"))
    assert (folder.name, folder.prompt("1+1")) == ("question.txt", "In a folder: 1+1")
    assert (own.name, own.prompt("{{question}}")) == ("own.txt", "{{question}} and {{question}}")
    assert own.sha256 == hashlib.sha256(b"{{question}} and {{question}}").hexdigest() != folder.sha256
    assert load_template(str(DEFAULT_DIR)).sha256 == found["default"].sha256


def test_byte_order_marks(tmp_path):
    path = jsonl(tmp_path / "mine.jsonl", ROWS)
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    (mine,) = load_benchmarks(tmp_path, ["mine"], None)
    assert mine.questions == QUESTIONS
    (tmp_path / "own.txt").write_text("Solve: {{question}}", encoding="utf-8-sig")
    assert load_template(str(tmp_path / "own.txt")).text == "Solve: {{question}}"


def test_a_template_that_is_none_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"--template qwen: no such template; expected boxed, dapo, default, question, a file,"
    ):
        load_template("qwen")
    with pytest.raises(UserError, match=r"--template .*: no such template"):
        load_template(str(tmp_path))  # a folder without question.txt
    (tmp_path / "own.txt").write_text("no place")
    with pytest.raises(UserError, match=r"own\.txt: the placeholder \{\{question\}\} is missing"):
        load_template(str(tmp_path / "own.txt"))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token per byte, special tokens that start like normal ones, and a BOS only on request."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(["<s>", "<|end|>", "<|user|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|end|>", extra_special_tokens=["<|user|>"],
        chat_template="<|user|>{{ messages[0]['content'] }}<|end|>{% if add_generation_prompt %}A:{% endif %}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {"toy": AutoTokenizer.from_pretrained(TOY / "model"), "bytes": byte_tokenizer()}


PIECES = st.sampled_from(
    ["<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|pad|>", "<|e<|end|>nd|>", "<", "|>", "{{question}}", "\n"]
)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["toy", "bytes"])
@given(pieces=st.lists(PIECES | st.text(max_size=8), max_size=8))
def test_prompts_reach_the_model_as_in_training(tokenizers, name, chat, pieces):
    """The token ids are identical, also if the question's text contains special tokens."""
    tokenizer, question = tokenizers[name], "Compute " + "".join(pieces)
    training = PromptFormat(Templates.load(), tokenizer, chat).question(question)
    expected = tokenizer(training, add_special_tokens=False)["input_ids"]
    request = Request("b", "q", 0, True, 0, load_template("default").prompt(question))
    assert Encoder(tokenizer, chat, None).encode([request], 16) == [expected]


def test_special_tokens_of_a_question_do_not_reach_the_model(tokenizers):
    tokenizer = tokenizers["bytes"]
    evil = Request("b", "q", 0, True, 0, "2<s><|e<|end|>nd|><|user|>!")
    assert Encoder(tokenizer, False, None).encode([evil], 1) == [tokenizer("2!", add_special_tokens=False)["input_ids"]]
    (ids,) = Encoder(tokenizer, True, None).encode([evil], 1)
    assert tokenizer.decode(ids) == "<|user|>2!<|end|>A:"
    assert [i for i in ids if i in tokenizer.all_special_ids] == [ids[0], ids[3]]
