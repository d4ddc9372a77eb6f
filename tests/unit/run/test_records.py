import json

import pytest

from openrlhf_mel import disk
from openrlhf_mel.errors import UserError
from openrlhf_mel.run import folder, records


def test_lines_are_whole_and_a_cut_one_is_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    disk.append_lines(path, [{"step": 1, "text": "a\nβ"}, {"step": 2}])
    with open(path, "a") as file:
        file.write('{"step": 3, "te')
    assert list(disk.read_lines(path)) == [{"step": 1, "text": "a\nβ"}, {"step": 2}]


def test_no_rows_still_make_the_file(tmp_path):
    disk.append_lines(tmp_path / "x.jsonl", [])
    assert (tmp_path / "x.jsonl").read_text() == ""


def test_keep_up_to_drops_what_a_resumed_run_writes_again(tmp_path):
    path = tmp_path / "x.jsonl"
    disk.append_lines(path, [{"step": s} for s in (1, 1, 2, 3, 3)])
    with open(path, "a") as file:
        file.write('{"step": 4')
    records.keep_up_to(path, 2)
    assert [row["step"] for row in disk.read_lines(path)] == [1, 1, 2]
    disk.append_lines(path, [{"step": 3}])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


@pytest.fixture
def run(tmp_path):
    config = {"data.max_len": 3, "mel.run_dir": "here", "ckpt.load_enable": False}
    disk.write_json(tmp_path / records.MANIFEST, {"config": config, "finished": None})
    return tmp_path, config


def test_new_or_empty_folder_is_fine(tmp_path):
    assert not folder.check(tmp_path / "new", {}, False)
    assert not folder.check(tmp_path, {}, False)


def test_a_start_that_was_killed_before_its_manifest_is_no_run(tmp_path):
    for name in ("logs", "checkpoints"):
        (tmp_path / name).mkdir()
    for name in (".lock", records.METRICS, records.STOP, f".{records.MANIFEST}.77"):
        (tmp_path / name).touch()
    assert not folder.check(tmp_path, {}, True)
    (tmp_path / records.METRICS).write_text("{}\n")
    with pytest.raises(UserError, match="not a run of this package"):
        folder.check(tmp_path, {}, True)


def test_foreign_folder(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty and not a run of this package"):
        folder.check(tmp_path, {}, True)


def test_another_run(run):
    with pytest.raises(UserError, match=r"belongs to another run: data\.max_len is 3 there and 4 here"):
        folder.check(run[0], run[1] | {"data.max_len": 4}, True)


def test_finished_run(run):
    manifest = json.loads((run[0] / records.MANIFEST).read_text()) | {"finished": "2026-01-01"}
    disk.write_json(run[0] / records.MANIFEST, manifest)
    with pytest.raises(UserError, match="holds a finished run"):
        folder.check(*run, False)
    assert folder.check(*run, True)  # True: nothing left to do
    with pytest.raises(UserError, match="belongs to another run"):
        folder.check(run[0], run[1] | {"data.max_len": 4}, True)


def test_a_run_of_a_version_without_an_option_goes_on_with_its_default(run):
    path, config = run
    now = config | {"mel.construction": "streaming", "mel.max_carries": 1}
    assert not folder.check(path, now, True)
    with pytest.raises(UserError, match=r"mel\.construction is 'streaming' there and 'deferred' here"):
        folder.check(path, now | {"mel.construction": "deferred"}, True)


def test_unfinished_run_goes_on_only_when_asked(run):
    with pytest.raises(UserError, match=r"unfinished run.*--ckpt\.load_enable"):
        folder.check(*run, False)
    assert not folder.check(run[0], run[1] | {"ckpt.load_enable": True, "mel.run_dir": "moved"}, True)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(UserError, match="is a file; expected a folder"):
        folder.check(tmp_path / "f", {}, False)
