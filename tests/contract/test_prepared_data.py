"""OpenRLHF's own dataset code reads the prepared files, with the project's prompt, chat and plain."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from data import prepare_benchmarks, prepare_train
from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import Templates

TOY = Path(__file__).parents[2] / "data" / "toy"
QUESTIONS = [
    {"question": "Find $\\frac{x}{2}$ for {x} = 4\u2028and 求 $x$.", "answer": "2"},
    {"question": 'Say "so" \\ \t if $x<1$', "answer": "\\frac{1}{2}"},
    {"question": "What is 025?", "answer": "025"},
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return path -> (question, label, datasource) rows: training and validation sets, merged benchmarks, toy task."""
    folder = tmp_path_factory.mktemp("prepared")

    def write(path, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    source = write(folder / "in.jsonl", QUESTIONS)
    flags = ["--source", "custom", "--input", str(source), "--output-dir", str(folder / "train"), "--validation", "1"]
    assert prepare_train.main(flags) == 0
    (folder / "b").mkdir()
    write(folder / "b" / "aime24.jsonl", [{"problem": f"Find {i}+{i}.", "answer": f"{2 * i:03d}"} for i in range(30)])
    flags = ["--output-dir", str(folder / "benchmarks"), "--input-dir", str(folder / "b")]
    assert prepare_benchmarks.main(flags) == 0
    paths = (
        folder / "train" / "train.jsonl",
        folder / "train" / "validation.jsonl",
        folder / "benchmarks" / "eval_all.jsonl",
        TOY / "train.jsonl",
    )
    keys = ("input", "label", "datasource")
    read = {p: [json.loads(line) for line in p.read_text().splitlines()] for p in paths}
    return {path: [tuple(row[key] for key in keys) for row in rows] for path, rows in read.items()}


def test_a_rows_scorer_becomes_its_labels(tmp_path):
    """Uses upstream's data loader and collation, with an older file without scorers blended in."""
    from openrlhf.datasets.utils import blending_datasets
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer

    from openrlhf_mel.upstream.dataset import QuestionDataset

    rows = [{"input": f"Which, {i}?", "label": "B", "scorer": "choice" if i else "mine.own:f"} for i in range(3)]
    old = [{"input": "1+1?", "label": "2"}]
    for name, own in (("new", rows), ("old", old)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    data = SimpleNamespace(
        input_key="input",
        label_key="label",
        image_key="images",
        input_template=None,
        apply_chat_template=False,
        max_len=4096,
    )
    args = SimpleNamespace(
        use_ms=False,
        mel=SimpleNamespace(template_dir=None, trust_remote_code=True),
        data=data,
        rollout=SimpleNamespace(max_new_tokens=64),
        reward=SimpleNamespace(remote_url=None, model_name_or_path=None),
    )
    strategy = SimpleNamespace(args=args, print=lambda *_: None, is_rank_0=lambda: False)
    names = f"{tmp_path}/new.jsonl,{tmp_path}/old.jsonl"
    blended = blending_datasets(names, "0.5,0.5", strategy, dataset_split="train")
    questions = QuestionDataset(blended, AutoTokenizer.from_pretrained(TOY / "model"), strategy)
    loaded = [label for batch in DataLoader(questions, 2, collate_fn=questions.collate_fn) for label in batch[2]]
    found = {label.question: (label, label.scorer) for label in loaded}
    wanted = {row["input"]: (row["label"], row.get("scorer", "math")) for row in rows + old}
    assert found.items() <= wanted.items() and {scorer for _, scorer in found.values()} == {
        "choice",
        "math",
        "mine.own:f",
    }
    args.mel.trust_remote_code = False  # data that changed after the checks at start
    with pytest.raises(UserError, match=r"scorer mine\.own:f: .*pass --mel\.trust_remote_code if you trust it"):
        QuestionDataset(blended, AutoTokenizer.from_pretrained(TOY / "model"), strategy)
    args.reward.remote_url = "http://127.0.0.1:1"  # which judges instead: the column may mean anything
    questions = QuestionDataset(blended, AutoTokenizer.from_pretrained(TOY / "model"), strategy)
    assert {label.scorer for label in questions.labels} == {"math"}


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_openrlhf_loads_them(prepared, chat):
    from openrlhf.datasets.utils import blending_datasets
    from transformers import AutoTokenizer

    from openrlhf_mel.upstream.dataset import QuestionDataset

    tokenizer = AutoTokenizer.from_pretrained(TOY / "model")
    templates = Templates.load()
    args = SimpleNamespace(
        use_ms=False,
        mel=SimpleNamespace(template_dir=None, trust_remote_code=False),
        data=SimpleNamespace(
            input_key="input", label_key="label", image_key="images", input_template=None,
            apply_chat_template=chat, max_len=4096,
        ),
        rollout=SimpleNamespace(max_new_tokens=64),
        reward=SimpleNamespace(remote_url=None, model_name_or_path=None),
    )  # fmt: skip
    strategy = SimpleNamespace(args=args, print=lambda *_: None, is_rank_0=lambda: False)
    seen = 0
    for path, expected in prepared.items():
        data = QuestionDataset(blending_datasets(str(path), None, strategy, dataset_split="train"), tokenizer, strategy)
        assert len(data) == len(expected)
        for i, (question, label, datasource) in enumerate(expected):
            text = templates.question(question)
            prompt = f"<|user|>{text}<|assistant|>" if chat else text
            assert data[i] == (datasource, prompt, label, None)
            seen += 1
    assert seen == len(QUESTIONS) + 30 + 2000


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_plain_openrlhf_loads_them_too(prepared, chat):
    """Upstream's own class gives the bare question, or upstream's `input_template`."""
    from openrlhf.datasets import PromptDataset
    from openrlhf.datasets.utils import blending_datasets
    from transformers import AutoTokenizer

    data_args = SimpleNamespace(input_key="input", label_key="label", image_key="images", apply_chat_template=chat)
    strategy = SimpleNamespace(
        args=SimpleNamespace(use_ms=False, data=data_args), print=lambda *_: None, is_rank_0=lambda: False
    )
    tokenizer = AutoTokenizer.from_pretrained(TOY / "model")
    template = None if chat else "{} Put the answer in \\boxed{{}}."
    for path, expected in prepared.items():
        rows = blending_datasets(str(path), None, strategy, dataset_split="train")
        data = PromptDataset(rows, tokenizer, strategy, template)
        for i, (question, label, datasource) in enumerate(expected[:50]):
            prompt = f"<|user|>{question}<|assistant|>" if chat else f"{question} Put the answer in \\boxed{{}}."
            assert data[i] == (datasource, prompt, label, None)
