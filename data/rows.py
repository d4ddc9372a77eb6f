"""The common form of a row with a question for a model. Pure."""

from __future__ import annotations

import hashlib
import unicodedata

from openrlhf_mel.verifier import MATH, SCORER

EVAL_ALL = "eval_all.jsonl"  # the file of all benchmarks' rows


def question_id(datasource: str, question: str) -> str:
    """The id of a question. It depends on the text alone, so it is the same in every copy of a source."""
    text = unicodedata.normalize("NFC", question)
    return f"{datasource}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def question_row(question: str, answer: str, datasource: str, scorer: str = MATH) -> dict[str, str]:
    """A row for OpenRLHF: `--data.input_key input --data.label_key label`."""
    row = {"id": question_id(datasource, question), "input": question, "label": answer, "datasource": datasource}
    return row | scorer_column(scorer)


def scorer_column(scorer: str) -> dict[str, str]:
    """What a row says of its scorer: nothing where that is `math`."""
    return {} if scorer == MATH else {SCORER: scorer}
