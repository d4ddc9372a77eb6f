"""The number format in which a model is computed: one rule for all backends that load weights."""

from __future__ import annotations

from openrlhf_mel.errors import UserError

AUTO, FORMATS = "auto", ("float32", "bfloat16", "float16")


def number_format(dtype: str, cpu: bool) -> str:
    """The format of `--dtype`: `auto` is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        UserError: an unknown format.
    """
    if dtype == AUTO:
        return "float32" if cpu else "bfloat16"
    if dtype not in FORMATS:
        raise UserError(f"--dtype {dtype}: unknown; expected {AUTO}, {', '.join(FORMATS)}")
    return dtype
