"""`data.prompt_split` and `eval.split`: the error for a missing split lists the existing ones."""

import hashlib
import json

import datasets
import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import inputs
from openrlhf_mel.settings.resolve import resolve
from openrlhf_mel.verifier import shared_verifier

pytestmark = pytest.mark.timeout(60)
ROWS = [{"input": "1 + 1?", "label": "2"}, {"input": "1 + 2?", "label": "3"}]
SMALL = ["--actor.model_name_or_path=m", "--data.label_key=label", "--mel.runtime=cpu", "--rollout.batch_size=2",
         "--rollout.n_samples_per_prompt=4", "--train.batch_size=8"]  # fmt: skip


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Write a folder with the same two questions in many file formats."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = datasets.Dataset.from_list(ROWS)
    rows.to_json(tmp_path / "a.jsonl")
    rows.to_csv(tmp_path / "a.csv")
    rows.to_parquet(tmp_path / "a.parquet")
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": rows, "held": rows}).save_to_disk(tmp_path / "several")
    (tmp_path / "plain").mkdir()
    rows.to_json(tmp_path / "plain" / "validation.jsonl")
    (tmp_path / "broken.jsonl").write_text("{ not json\n")
    return tmp_path


def read(data, flag, names, split, *more):
    paths = ",".join(str(data / name) for name in names.split(","))
    other = [] if flag == "data.prompt_dataset" else ["--data.prompt_dataset", str(data / "a.jsonl")]
    argv = [f"--{flag}={paths}", f"--{inputs.DATA[flag]}={split}", *other, *SMALL, *more]
    return inputs.read_data(resolve(None, argv, device="cpu"), flag)


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        (["choice", None], None),
        (["choice", "choice"], "row 2, 'label': found 'C', but the question's options are A, B"),
        ([None, None], None),
        (["choice", "chioce"], "column 'scorer': scorer 'chioce': expected math, choice"),
        (["no_such_module_here:f", "math"], "column 'scorer': scorer no_such_module_here:f: cannot be imported"),
        ([3, 4], "column 'scorer': scorer 3: expected math"),
        (["", None], "row 1, column 'scorer': scorer '': expected math"),
        ([None, ["choice"]], r"row 2, column 'scorer': scorer \['choice'\]: expected math"),
    ],
)
def test_scorers_that_cannot_be_used_show_before_anything_starts(data, scorers, message):
    golds = ("B", "C") if "choice" in scorers else ("2", "3")
    rows = [
        {"input": f"{row['input']}\nA. 1\nB. 2", "label": gold, "scorer": scorer}
        for row, gold, scorer in zip(ROWS, golds, scorers, strict=True)
    ]
    (data / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = "data.prompt_dataset", "scored.jsonl", "train", "--mel.trust_remote_code"
    if message is None:
        assert len(read(data, *named)) == 2
        return
    with pytest.raises(UserError, match=message):
        read(data, *named)


def test_data_run_no_code_unless_it_is_allowed(data, monkeypatch):
    """A scorer named in the data would be imported and called: it is refused first."""
    (data / "judges_of_theirs.py").write_text(
        f"open({str(data / 'ran')!r}, 'w')\ndef f(answer, gold, question):\n    return True\n"
    )
    monkeypatch.syspath_prepend(data)
    shared_verifier().close()  # workers keep the import paths from their start
    for name, scorer in (("one.jsonl", "judges_of_theirs:f"), ("two.jsonl", "shutil.rmtree")):
        (data / name).write_text(json.dumps({"input": "True", "label": str(data), "scorer": scorer}) + "\n")
        for flag in inputs.DATA:
            with pytest.raises(UserError, match=f"row 1, .*scorer {scorer}: .*pass --mel.trust_remote_code if you"):
                read(data, flag, name, "train")
    assert not (data / "ran").exists()
    allowed = "data.prompt_dataset", "one.jsonl", "train", "--mel.trust_remote_code"
    assert len(read(data, *allowed)) == 1 and (data / "ran").exists()
    with pytest.raises(UserError, match="shutil is a module of Python itself"):
        read(data, "data.prompt_dataset", "two.jsonl", "train", "--mel.trust_remote_code")


def test_what_the_data_name_is_told_with_its_files_hash(data, monkeypatch):
    own = data / "judges_of_mine.py"
    own.write_text("def f(answer, gold, question):\n    return True\n")
    monkeypatch.syspath_prepend(data)
    shared_verifier().close()
    rows = [row | {"scorer": scorer} for row, scorer in zip(ROWS, ("judges_of_mine:f", "math"), strict=True)]
    datasets.Dataset.from_list(rows).to_json(data / "mine.jsonl")
    argv = [f"--data.prompt_dataset={data / 'mine.jsonl'}", *SMALL, "--mel.trust_remote_code"]
    told = inputs.check_data(resolve(None, argv, device="cpu"))
    assert told == {"judges_of_mine:f": hashlib.sha256(own.read_bytes()).hexdigest()}
    assert inputs.check_data(resolve(None, [f"--data.prompt_dataset={data / 'a.jsonl'}", *SMALL], device="cpu")) == {}


def test_a_column_of_another_meaning_stops_no_run_with_a_reward_of_its_own(data):
    rows = [row | {"scorer": "human"} for row in ROWS]
    datasets.Dataset.from_list(rows).to_json(data / "rated.jsonl")
    argv = [f"--data.prompt_dataset={data / 'rated.jsonl'}", *SMALL]
    with pytest.raises(UserError, match=r"row 1, column 'scorer': .*rename the column if it is not the verifier's"):
        inputs.check_data(resolve(None, argv, device="cpu"))
    assert inputs.check_data(resolve(None, [*argv, "--reward.remote_url=http://127.0.0.1:1"], device="cpu")) == {}


@pytest.mark.parametrize("flag", inputs.DATA)
@pytest.mark.parametrize(
    ("names", "split", "named", "there"),
    [
        ("a.jsonl", "nosuch", "a.jsonl", "train"), ("a.csv", "Train", "a.csv", "train"), ("a.parquet", "test", "a.parquet", "train"),
        ("several", "train", "several", "test, held"), ("plain", "train", "plain", "validation"), ("a.jsonl", "train[:50%]", "a.jsonl", "train"),
        ("a.jsonl,several", "train", "several", "test, held"), ("several,a.jsonl", "test", "a.jsonl", "train"), ("a.jsonl", "", "a.jsonl", "train"),
        ("a.jsonl", " train", "a.jsonl", "train"),
    ],
)  # fmt: skip
def test_a_split_that_is_not_there(data, flag, names, split, named, there):
    with pytest.raises(UserError) as caught:
        read(data, flag, names, split)
    said = f"--{inputs.DATA[flag]}: found {split!r}, expected a split of {data / named}, which has {there}"
    assert str(caught.value) == said


@pytest.mark.parametrize("flag", inputs.DATA)
@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("a.jsonl", "train"),
        ("several", "held"),
        ("plain", "validation"),
        ("a.jsonl,a.parquet", "train"),
        ("one", "nosuch"),
    ],
)
def test_a_split_that_is_there_or_not_asked_for(data, flag, names, split):
    """Data saved without splits ignore the option."""
    assert len(read(data, flag, names, split)) == len(ROWS) * len(names.split(","))


@pytest.mark.parametrize(
    ("names", "split", "said"),
    [
        ("broken.jsonl", "nosuch", "broken.jsonl: cannot be loaded"), ("a.jsonl,broken.jsonl", "train", "cannot be loaded"),
        ("none.jsonl", "nosuch", "no such file"),
    ],
)  # fmt: skip
def test_other_faults_keep_their_words(data, names, split, said):
    with pytest.raises(UserError, match=said):
        read(data, "data.prompt_dataset", names, split)
