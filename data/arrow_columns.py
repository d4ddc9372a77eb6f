"""Columns of Arrow tables, as Python values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def column_of(table: pa.Table | pa.RecordBatch, column: str) -> pa.Array:
    """The column of this name; of a column of conversations their texts, when each is one user message."""
    exact = column in table.schema.names
    top, *rest = [column] if exact else column.split(".")
    array = table.column(top)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if rest:
        array = pc.struct_field(array, rest)
    texts = _user_messages(array)
    return array if texts is None else texts


def values_of(array: pa.Array) -> list[Any]:
    """The cells as Python values; repeated texts are created once. A narrow float becomes the number that it prints."""
    if pa.types.is_float16(array.type) or pa.types.is_float32(array.type):
        array = array.cast(pa.float32()).cast(pa.string())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        encoded = array.dictionary_encode()
        values = encoded.dictionary.to_pylist()
        return [None if i is None else values[i] for i in encoded.indices.to_pylist()]
    cells: list[Any] = array.to_pylist()
    return cells


def _user_messages(array: pa.Array) -> pa.Array | None:
    """The texts of a column of conversations, when each is one user message; None for anything else."""
    if not (pa.types.is_list(array.type) and pa.types.is_struct(array.type.value_type)):
        return None
    if {"role", "content"} - {f.name for f in array.type.value_type}:
        return None
    messages = array.flatten()
    one_each = (
        array.null_count == 0 and len(messages) == len(array) and pc.all(pc.equal(pc.list_value_length(array), 1))
    )
    users = pc.all(pc.equal(pc.struct_field(messages, "role"), "user"), skip_nulls=False)
    return pc.struct_field(messages, "content") if one_each and users.as_py() else None


def dotted_fields(fields: pa.Schema | pa.StructType) -> list[str]:
    """The names of fields, those inside a struct as `column.field`."""
    names = []
    for f in fields:
        names.append(f.name)
        if pa.types.is_struct(f.type):
            names += [f"{f.name}.{inner}" for inner in dotted_fields(f.type)]
    return names
