"""Source files: JSON lines, parquet, csv, or a data set on the hub, read batch by batch.

Every message names the file and the row (JSON lines: the line), counted from 1.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.arrow_columns import column_of, dotted_fields, values_of
from data.csv_table import csv_table
from data.sources import Hub
from openrlhf_mel.conversation import Unreadable, user_message
from openrlhf_mel.disk import file_sha256
from openrlhf_mel.errors import UserError

_BATCH = 20_000
# Row numbers, and these rows' cells, column by column.
Batch = tuple[list[int], list[list[Any]]]


class Input:
    """Rows of a source.

    Attributes:
        name: for messages.
        origin: for the manifest; complete once everything has been read.
        columns: names that `batches` takes; the field of a nested column as `column.field`.
        rows: number of rows, when it is known before reading.
    """

    unit = "row"

    def __init__(self, name: str, origin: dict[str, Any], columns: list[str], rows: int | None):
        self.name, self.origin, self.columns, self.rows = name, origin, columns, rows

    def batches(self, columns: list[str]) -> Iterator[Batch]:
        """The cells of `columns`, some rows at a time.

        A conversation of one user message is returned as its text, also when the conversation is stored as text.
        """
        raise NotImplementedError

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row's number and the whole row."""
        raise NotImplementedError

    def place(self, number: int) -> str:
        """The name of a row in messages."""
        return f"{self.name}, {self.unit} {number}"

    def _cell(self, value: Any, number: int, column: str) -> Any:
        try:
            return user_message(value)
        except Unreadable as error:
            raise UserError(f"{self.place(number)}: {column!r}: {error}") from None


class JsonLines(Input):
    """A file with one JSON object a line; empty lines are passed over."""

    unit = "line"

    def __init__(self, path: Path):
        self._path = path
        super().__init__(str(path), {"file": path.name}, [], None)
        first = next(self.records(), None)
        if first is None:
            raise UserError(f"{path}: no rows; expected a JSON object a line")
        self.columns = _dotted(first[1])

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        digest = hashlib.sha256()
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                line = line.removeprefix(codecs.BOM_UTF8)  # also within the file, where files were joined
                if line.strip():
                    yield number, self._parsed(number, line)
        self.origin["sha256"] = digest.hexdigest()

    def batches(self, columns: list[str]) -> Iterator[Batch]:
        records = self.records()
        while batch := list(islice(records, _BATCH)):
            cells = [[self._at(column, number, row) for number, row in batch] for column in columns]
            yield [number for number, _ in batch], cells

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            end = "" if line.endswith(b"\n") else "; the file may have been cut short: fetch it again"
            raise UserError(
                f"{self.place(number)}: not JSON ({error}): {line[:60].decode(errors='replace')!r}{end}"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{self.place(number)}: found {type(row).__name__}, expected a JSON object")
        if b"\\u" in line:
            try:
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{self.place(number)}: holds half of a UTF-16 pair, which is no text ({error.reason}); mend that line"
                ) from None
        return row

    def _at(self, column: str, number: int, row: dict[str, Any]) -> Any:
        value: Any = row
        for part in [column] if column in row else column.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UserError(f"{self.place(number)}: no column {column!r}; found {', '.join(list(row)[:12])}")
            value = value[part]
        return self._cell(value, number, column)


class Tables(Input):
    """Rows that come as Arrow tables: a parquet file, or a data set of the hub."""

    def __init__(self, name: str, origin: dict[str, Any], schema: pa.Schema, rows: int):
        if not rows:
            raise UserError(f"{name}: no rows; expected at least one question")
        if repeated := {column for column in schema.names if schema.names.count(column) > 1}:
            raise UserError(f"{name}: several columns are called {', '.join(sorted(repeated))}; rename all but one")
        super().__init__(name, origin, dotted_fields(schema), rows)

    def tables(self, columns: list[str] | None) -> Iterator[pa.Table | pa.RecordBatch]:
        """The rows in order; only the top-level `columns`, where they are named."""
        raise NotImplementedError

    def batches(self, columns: list[str]) -> Iterator[Batch]:
        start = 1
        for table in self.tables(columns):
            numbers = list(range(start, start + table.num_rows))
            yield numbers, [self._cells(table, column, start) for column in columns]
            start += table.num_rows

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        start = 1
        for table in self.tables(None):
            try:
                yield from enumerate(table.to_pylist(), start)
            except UnicodeDecodeError as error:
                raise self._no_text(table.num_rows, start, error) from None
            start += table.num_rows

    def _cells(self, table: pa.Table | pa.RecordBatch, column: str, start: int) -> list[Any]:
        try:
            values = values_of(column_of(table, column))
            return [self._cell(value, number, column) for number, value in enumerate(values, start)]
        except UnicodeDecodeError as error:
            raise self._no_text(table.num_rows, start, error) from None

    def _no_text(self, rows: int, start: int, error: UnicodeDecodeError) -> UserError:
        return UserError(
            f"{self.name}, rows {start} to {start + rows - 1}: holds a text that is not UTF-8 ({error.reason}); fetch it again"
        )


class Parquet(Tables):
    """A parquet file, read row group by row group."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a whole parquet file ({_short(error)}); fetch it again") from None
        super().__init__(str(path), {"file": path.name}, self._file.schema_arrow, self._file.metadata.num_rows)

    def tables(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        names = columns and sorted({self._top(column) for column in columns})
        read = 0
        with ThreadPoolExecutor(1) as hashing:  # in parallel with reading: hashlib releases the GIL
            digest = hashing.submit(file_sha256, self._path)
            try:
                for batch in self._file.iter_batches(_BATCH, columns=names):
                    yield batch
                    read += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise UserError(
                    f"{self._path}: cannot be read after row {read} ({_short(error)}); fetch the file again"
                ) from None
            self.origin["sha256"] = digest.result()

    def _top(self, column: str) -> str:
        return column if column in self._file.schema_arrow.names else column.partition(".")[0]


class Csv(Tables):
    """A csv file with a line of names, read as a whole: every cell is a text, an empty one too."""

    def __init__(self, path: Path):
        self._table = csv_table(path)
        origin = {"file": path.name, "sha256": file_sha256(path)}
        super().__init__(str(path), origin, self._table.schema, self._table.num_rows)

    def tables(self, columns: list[str] | None) -> Iterator[pa.Table]:
        yield self._table if columns is None else self._table.select(sorted(set(columns)))


class HubTables(Tables):
    """A split of a data set, from the hub or from a folder that holds a copy of it."""

    def __init__(self, name: str, origin: dict[str, Any], dataset: Any):
        self._dataset = dataset
        super().__init__(name, origin, dataset.features.arrow_schema, len(dataset))

    def tables(self, columns: list[str] | None) -> Iterator[pa.Table]:
        yield from self._dataset.with_format("arrow").iter(_BATCH)


def open_file(path: Path, hub: Hub | None = None) -> Input:
    """The rows of a .jsonl, .parquet or .csv file, or of a folder with a copy of the hub's data set.

    Raises:
        UserError: it is not there, of another kind, damaged, or empty.
    """
    if path.is_dir():
        return _folder(path, hub)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, or none that can be read twice; expected .jsonl, .parquet, .csv, or a folder with a copy of the hub's data set"
        )
    readers: dict[str, Callable[[Path], Input]] = {".jsonl": JsonLines, ".parquet": Parquet, ".csv": Csv}
    if path.suffix not in readers:
        raise UserError(f"{path}: found the ending {path.suffix!r}, expected .jsonl, .parquet or .csv")
    if not path.stat().st_size:
        raise UserError(f"{path}: empty; expected rows")
    return readers[path.suffix](path)


class HubError(UserError):
    """The hub cannot be read. The message says why; the caller adds what to do."""


def open_hub(hub: Hub, revision: str | None = None) -> Input:
    """The rows of a data set on the hub, at the commit that `revision` names now.

    Raises:
        HubError: it cannot be read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # each failed try would be a warning; the last one is our message
    try:
        commit = HfApi().dataset_info(hub.repo, revision=revision, timeout=20).sha
        # With "hf://" a local folder with the repository's name is not used instead.
        dataset = _load(f"hf://datasets/{hub.repo}", hub, revision=commit)
        # If the download fails, `datasets` falls back to any commit in its cache.
        if any(commit not in Path(file["filename"]).parts for file in dataset.cache_files):
            raise ValueError(f"commit {commit} cannot be downloaded, only another one is in the cache")
    except Exception as error:  # of requests, httpx, huggingface_hub, datasets, pyarrow
        raise HubError(f"{hub.repo}: cannot be read from the hub ({_short(error)})") from None
    origin = {"repo": hub.repo, "config": hub.config, "split": hub.split, "revision": commit}
    return HubTables(f"{hub.repo} ({hub.split})", origin, dataset)


def _folder(path: Path, hub: Hub | None) -> Input:
    if hub is None:
        raise UserError(f"{path}: found a folder, expected a .jsonl, .parquet or .csv file")
    try:
        dataset = _load(str(path), hub)
    except Exception as error:  # as above
        raise UserError(
            f"{path}: cannot be read as a copy of {hub.repo} ({_short(error)}); name the file: {hub.file}"
        ) from None
    return HubTables(str(path), {"folder": path.name, "config": hub.config, "split": hub.split}, dataset)


def _load(name: str, hub: Hub, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(name, hub.config, split=hub.split, **options)


def _dotted(row: dict[str, Any]) -> list[str]:
    names = []
    for name, value in row.items():
        names.append(name)
        if isinstance(value, dict):
            names += [f"{name}.{inner}" for inner in _dotted(value)]
    return names


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:250]}"
