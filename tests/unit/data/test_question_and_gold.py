"""data/question_and_gold.py: a message names the columns at fault."""

import json

import pytest

from data import golds, prepare_benchmarks, sources
from data.question_and_gold import question_and_gold
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)
SOURCE = sources.load(sources.BENCHMARKS)["gpqa_diamond"]
FORM = SOURCE.forms[0]
WRONG = [f"Incorrect Answer {i}" for i in (1, 2, 3)]
CELLS = {"Question": "q?", "Correct Answer": "a", **dict(zip(WRONG, "bcd", strict=True))}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"Question": " "}, "row 8: 'Question': found ' ', expected the question's text"),
        ({"Correct Answer": " "}, "row 8: 'Correct Answer': no answer (read as plain); expected one in every row"),
        ({WRONG[1]: " "}, "row 8: 'Incorrect Answer 2': the option is empty, expected a text; "),
        ({WRONG[1]: None}, "row 8: 'Incorrect Answer 2': the option is empty"),
        ({WRONG[2]: "\u200b"}, "row 8: 'Incorrect Answer 3': the option is empty"),
        ({WRONG[2]: "a "}, "row 8: 'Correct Answer' and 'Incorrect Answer 3': two options are equal, 'a'; expected "),
        ({WRONG[2]: "b"}, "row 8: 'Incorrect Answer 1' and 'Incorrect Answer 3': two options are equal, 'b'"),
        ({WRONG[0]: ["b"]}, "row 8: 'Incorrect Answer 1': found ['b'] (list), expected a text or a number"),
    ],
)
def test_the_columns_at_fault_are_named(cells, message):
    with pytest.raises(UserError) as caught:
        question_and_gold(CELLS | cells, FORM, SOURCE, "row 8")
    assert str(caught.value).startswith(message)


def test_a_row_of_options_becomes_a_question():
    text, letter = question_and_gold(CELLS, FORM, SOURCE, "row 8")
    assert text.startswith("q?\n\nA) ") and f"{letter}) a" in text and golds.normalise(letter, "choice") == letter


def test_the_command_names_them(tmp_path, capsys):
    rows = [CELLS | {"Question": f"q{i}?", WRONG[2]: "b" if i == 7 else "d"} for i in range(198)]
    (tmp_path / "gpqa_diamond.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--only", "gpqa_diamond", "--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    assert prepare_benchmarks.main(argv) == 2
    error = capsys.readouterr().err
    assert "line 8: 'Incorrect Answer 1' and 'Incorrect Answer 3': two options are equal" in error
    assert error.rpartition("error: ")[2].count("\n") == 1
