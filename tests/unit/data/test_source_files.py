"""Source files: reading each kind, and the messages for damaged ones."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.source_files import open_file
from data.sources import Hub
from openrlhf_mel.errors import UserError

CHATS = [
    {"prompt": [{"role": "user", "content": f"Question {i}?"}], "reward_model": {"ground_truth": str(i)}, "n": i}
    for i in range(5)
]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, rows, **options):
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def read(rows, *columns):
    found = []
    for numbers, cells in rows.batches(list(columns)):
        found += zip(numbers, *cells, strict=True)
    return found


@pytest.fixture(params=[jsonl, parquet], ids=["jsonl", "parquet"])
def write(request, tmp_path):
    return lambda rows: request.param(tmp_path / f"rows.{request.param.__name__}", rows)


def test_conversations_and_nested_columns(write):
    rows = open_file(write(CHATS))
    assert {"prompt", "reward_model.ground_truth", "n"} <= set(rows.columns)
    assert read(rows, "prompt", "reward_model.ground_truth", "n") == [
        (i + 1, f"Question {i}?", str(i), i) for i in range(5)
    ]
    assert len(rows.origin["sha256"]) == 64
    assert [(number, row["n"]) for number, row in rows.records()] == [(i + 1, i) for i in range(5)]


@pytest.mark.parametrize(
    "odd",
    [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        [{"role": "assistant", "content": "q"}],
        [],
        None,
    ],
)
def test_other_conversations_are_handed_on_as_they_are(write, odd):
    rows = open_file(write([*CHATS, {**CHATS[0], "prompt": odd}]))
    assert [cell for _, cell in read(rows, "prompt")] == [f"Question {i}?" for i in range(5)] + [odd]


def test_cells_of_every_type(write):
    rows = [{"q": "a", "s": "x", "i": 3, "f": 2.5, "b": True, "l": ["y"], "z": None}, dict.fromkeys("qsifblz")]
    found = read(open_file(write(rows)), *"qsifblz")
    assert found == [(1, *rows[0].values()), (2, *rows[1].values())]


def test_a_column_whose_name_holds_a_dot(write):
    assert read(open_file(write([{"a.b": "x", "a": {"b": "y"}}])), "a.b") == [(1, "x")]


def test_empty_lines_count_as_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": 1}\n\n{"q": 2}')
    assert read(open_file(path), "q") == [(1, 1), (3, 2)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('\ufeff{"q": "a"}\n', [(1, "a")]), ('\ufeff{"q": "a"}\n\ufeff{"q": "b"}\n', [(1, "a"), (2, "b")]),
        ('\ufeff\n{"q": "a"}\n', [(2, "a")]), ('{"q": "a"}\n\ufeff\n{"q": "b"}', [(1, "a"), (3, "b")]),
        ('\ufeff {"q": "\ufeffa"}\r\n', [(1, "\ufeffa")]), ('{"q": "a\ufeff"}\n', [(1, "a\ufeff")]),
    ],
)  # fmt: skip
def test_byte_order_marks_begin_lines_and_belong_to_texts(tmp_path, content, expected):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content.encode())
    rows = open_file(path)
    assert rows.columns == ["q"] and read(rows, "q") == expected
    assert rows.origin["sha256"] == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"q": 1}\n{"q": "half', r"a.jsonl, line 2: not JSON .*cut short"),
        ('{"q": 1}\n{"q": 1,}\n{"q": 2}\n', r"a.jsonl, line 2: not JSON"),
        ('{"q": 1}\n[1]\n', r"a.jsonl, line 2: found list, expected a JSON object"),
        ('{"q": 1}\n{"other": 1}\n', r"a.jsonl, line 2: no column 'q'; found other"),
        ("", r"a.jsonl: empty"),
        ("\n\n", r"a.jsonl: no rows"),
        ("[" * 100_000, r"a.jsonl, line 1: not JSON"),
        ('{"q": "\xff"}\n', r"a.jsonl, line 1: not JSON"),
        ('{"q": "a", "x": ["\\udc00"]}\n', r"a.jsonl, line 1: holds half of a UTF-16 pair"),
    ],
)
def test_damaged_lines(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read(open_file(path), "q")


def test_a_parquet_file_cut_short(tmp_path):
    path = parquet(tmp_path / "a.parquet", CHATS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"a.parquet: not a whole parquet file"):
        open_file(path)


def test_a_parquet_file_damaged_inside(tmp_path):
    rows = [{"q": f"question {i} {i * 7919 % 1013}", "a": str(i)} for i in range(40_000)]
    path = parquet(tmp_path / "a.parquet", rows, row_group_size=10_000, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.parquet: cannot be read after row \d+ .*fetch the file again"):
        read(open_file(path), "q", "a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "no such file"),
        ("a.tsv", "ending '.tsv', expected .jsonl, .parquet or .csv"),
        ("folder", "found a folder"),
    ],
)
def test_what_is_no_source_file(tmp_path, name, message):
    (tmp_path / "a.tsv").write_text("q\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        open_file(tmp_path / name)


def test_a_parquet_file_without_rows(tmp_path):
    pq.write_table(pa.table({"q": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no rows"):
        open_file(tmp_path / "a.parquet")


def test_a_parquet_text_that_is_no_text(tmp_path):
    bad = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"q": bad}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet, rows 1 to 2: holds a text that is not UTF-8"):
        read(open_file(tmp_path / "a.parquet"), "q")
    with pytest.raises(UserError, match="not UTF-8"):
        list(open_file(tmp_path / "a.parquet").records())


def test_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["q", "q"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="several columns are called q"):
        open_file(tmp_path / "a.parquet")


def test_narrow_floats_are_read_as_they_are_printed(tmp_path):
    pq.write_table(pa.table({"a": pa.array([0.1, 27.0], pa.float32())}), tmp_path / "a.parquet")
    assert [float(cell) for _, cell in read(open_file(tmp_path / "a.parquet"), "a")] == [0.1, 27.0]


def test_a_role_that_is_missing_is_no_user(tmp_path):
    path = parquet(tmp_path / "a.parquet", [{"prompt": [{"role": None, "content": "q"}]}, CHATS[0]])
    assert [cell for _, cell in read(open_file(path), "prompt")] == [[{"role": None, "content": "q"}], "Question 0?"]


def test_a_folder_with_a_copy_of_the_hubs_data_set(tmp_path):
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", CHATS)
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", CHATS[:1])
    rows = open_file(tmp_path, Hub("some/name", "train", "data/train-00000-of-00001.parquet"))
    assert rows.rows == 5
    assert read(rows, "prompt", "n") == [(i + 1, f"Question {i}?", i) for i in range(5)]
    with pytest.raises(UserError, match=r"cannot be read as a copy of some/name"):
        open_file(tmp_path, Hub("some/name", "nosplit", "data/x.parquet"))
