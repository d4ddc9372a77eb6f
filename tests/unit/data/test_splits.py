"""`data.prompt_split` and `eval.split`: one that is not there is named, with those that are."""

import datasets
import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import inputs
from openrlhf_mel.settings.resolve import resolve

pytestmark = pytest.mark.timeout(60)
ROWS = [{"input": "1 + 1?", "label": "2"}, {"input": "1 + 2?", "label": "3"}]
SMALL = ["--actor.model_name_or_path=m", "--data.label_key=label", "--mel.runtime=cpu", "--rollout.batch_size=2",
         "--rollout.n_samples_per_prompt=4", "--train.batch_size=8"]  # fmt: skip


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with the same two questions in many forms."""
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


def read(data, flag, names, split):
    paths = ",".join(str(data / name) for name in names.split(","))
    other = [] if flag == "data.prompt_dataset" else ["--data.prompt_dataset", str(data / "a.jsonl")]
    argv = [f"--{flag}={paths}", f"--{inputs.DATA[flag]}={split}", *other, *SMALL]
    return inputs.read_data(resolve(None, argv, device="cpu"), flag)


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        (["choice", None], None),
        ([None, None], None),
        (["choice", "chioce"], "column 'scorer': scorer 'chioce': expected math, choice"),
        (["no_such_module_here:f", "math"], "column 'scorer': scorer no_such_module_here:f: cannot be imported"),
        ([3, 4], "column 'scorer': scorer 3: expected math"),
    ],
)
def test_scorers_that_cannot_be_used_show_before_anything_starts(data, scorers, message):
    rows = [row | {"scorer": scorer} for row, scorer in zip(ROWS, scorers, strict=True)]
    datasets.Dataset.from_list(rows).to_json(data / "scored.jsonl")
    if message is None:
        assert len(read(data, "data.prompt_dataset", "scored.jsonl", "train")) == 2
        return
    with pytest.raises(UserError, match=message):
        read(data, "data.prompt_dataset", "scored.jsonl", "train")


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
    """Data that were saved without splits have none to choose from."""
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
