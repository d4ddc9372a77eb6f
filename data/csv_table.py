"""A csv file as an Arrow table of texts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from openrlhf_mel.errors import UserError

_PARSE = pa.csv.ParseOptions(newlines_in_values=True)
_MEGABYTES = 64  # of a block, which has to hold each row as a whole
_READ = pa.csv.ReadOptions(block_size=_MEGABYTES * 2**20)


def csv_table(path: Path) -> pa.Table:
    """The rows below the line of names; every cell is a text, an empty one too.

    Raises:
        UserError: it is no csv, not UTF-8, or has a longer row than 64 MB.
    """
    try:
        names = pa.csv.open_csv(path, read_options=_READ, parse_options=_PARSE).schema.names
        texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return pa.csv.read_csv(path, read_options=_READ, parse_options=_PARSE, convert_options=texts)
    except UnicodeDecodeError as error:  # in the line of names
        raise UserError(_not_utf8(path, str(error))) from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0][:250]
        if "utf8" in reason.lower() or "\0" in reason:  # UTF-16 has zero bytes
            reason = reason.replace("\0", "")
            raise UserError(_not_utf8(path, reason)) from None
        if "straddl" in reason:
            raise UserError(
                f"{path}: found a row of more than {_MEGABYTES} MB, expected shorter ones; where a quotation mark is not "
                "closed, close it, else give the file as .jsonl or .parquet"
            ) from None
        raise UserError(
            f"{path}: cannot be read as csv ({type(error).__name__}: {reason}); mend that row, or fetch the file again"
        ) from None


def _not_utf8(path: Path, reason: str) -> str:
    return f"{path}: found a text that is not UTF-8 ({reason}), expected UTF-8; save the file as UTF-8"
