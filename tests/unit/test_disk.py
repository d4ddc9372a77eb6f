"""The JSON lines of all writers, and the hash of a file."""

import hashlib
import json

import pytest

from openrlhf_mel import disk
from toolkit.outputs import json_lines

ROW = {"text": "a\u2028b\u2029c\x85d\ne é", "n": 1}


def test_no_reader_finds_a_line_within_a_line():
    line = disk.json_line(ROW)
    assert line.endswith("}\n") and len(line.splitlines()) == 1 and json.loads(line) == ROW and "é" in line


def test_a_runs_records_and_prepared_data_are_written_alike(tmp_path):
    path = tmp_path / "rows.jsonl"
    disk.append_lines(path, [ROW, ROW])
    assert path.read_text(encoding="utf-8") == "".join(json_lines([ROW, ROW])) == 2 * disk.json_line(ROW)
    assert list(disk.read_lines(path)) == [ROW, ROW]


def test_what_is_no_number_is_refused_where_asked(tmp_path):
    row = {"step": 1, "loss": float("nan")}
    disk.append_lines(tmp_path / "metrics.jsonl", [row])  # a run is continued
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": NaN}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        list(json_lines([row]))


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert disk.file_sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
