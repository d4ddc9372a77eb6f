"""Csv files: long rows, and one line for what is not UTF-8 or no csv."""

import pytest

from data import csv_table
from data.source_files import open_file
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)


def written(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "q,r\u00e9ponse\na,b\n".encode("latin-1"),
        "q,a\nx,y\nd\u00e9j\u00e0,b\n".encode("latin-1"),
        "q,a\nx,y\n".encode("utf-16"),
    ],
    ids=["header", "cell", "utf-16"],
)
def test_other_encodings_are_to_be_saved_as_utf8(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.csv: found a text that is not UTF-8 .*; save the file as UTF-8") as caught:
        open_file(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_row_of_several_megabytes_is_read(tmp_path):
    long = "x" * 5_000_000
    rows = open_file(written(tmp_path, f'q,a\n1,"{long}"\n2,\u00e9\n3,"{long}"\n'.encode()))
    assert [row["a"] for _, row in rows.records()] == [long, "\u00e9", long]


def test_a_longer_row_gets_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_table, "_READ", csv_table.pa.csv.ReadOptions(block_size=1000))
    path = written(tmp_path, b"q,a\n" + b"1,2\n" * 300 + b'3,"' + b"x\n" * 3000 + b'"\n')
    with pytest.raises(
        UserError, match=r"a\.csv: found a row of more than 64 MB, .*close it, else give the file as \.jsonl"
    ):
        open_file(path)


def test_a_row_with_other_columns(tmp_path):
    with pytest.raises(UserError, match=r"a\.csv: cannot be read as csv .*mend that row"):
        open_file(written(tmp_path, b"q,a\n1,2,3\n"))
