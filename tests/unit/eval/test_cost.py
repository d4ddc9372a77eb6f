"""`eval.cost`: memory and hours of an evaluation."""

import json

import pytest

from eval import cost
from openrlhf_mel.errors import UserError
from openrlhf_mel.preflight import evaluation

pytestmark = pytest.mark.timeout(60)
QWEN = "Qwen/Qwen3-8B-Base"


def test_the_table_has_both_lengths_and_counts_every_response(capsys):
    assert cost.main(["--model", QWEN]) == 0
    text = capsys.readouterr().out
    assert "1,275 questions, 11,475 responses" in text or "1,274 questions, 11,466 responses" in text
    assert "| 4,096 | " in text and "| 31,744 | " in text  # 32,768 positions less a prompt
    assert cost.main(["--model", QWEN, "--benchmarks", "aime26,math500", "--samples", "standard"]) == 0
    assert f"530 questions, {30 * 33 + 500 * 17:,} responses" in capsys.readouterr().out


def test_it_is_bounded_by_weights_and_matrix_products():
    """By hand: each decoding step reads the weights once; each token multiplies with them."""
    found = evaluation.cost(QWEN, "h100", 1, 1, 10_000, 4096, 1000)
    parameters = 8.19e9
    assert found.weights == pytest.approx(2 * parameters, rel=0.01)
    multiplied = 2 * 7.57e9 * found.tokens / (989e12 * 0.5)
    reads = found.tokens / found.at_once * 2 * 7.57e9 / (3.35e12 * 0.6)
    assert max(multiplied, reads) < found.seconds < 4 * (multiplied + reads)
    assert found.at_once == 256 and found.tokens == pytest.approx(10_000 * 1000, rel=0.01)


def test_more_gpus_take_less_time_and_longer_responses_more():
    base = evaluation.cost(QWEN, "h100", 1, 1, 10_000, 4096, None)
    assert evaluation.cost(QWEN, "h100", 8, 1, 10_000, 4096, None).seconds < base.seconds / 6
    long = evaluation.cost(QWEN, "h100", 1, 1, 10_000, 32768, None)
    assert long.seconds > 8 * base.seconds and long.at_once < base.at_once == 256


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "my/own"], "my/own: not one of the bundled models"),
        (["--gpu", "abacus"], "--gpu abacus: expected one of"),
        (["--gpus", "3", "--tensor-parallel", "2"], "--gpus 3, --tensor-parallel 2: expected GPUs in whole engines"),
        (["--benchmarks", "mine"], "the number of questions of mine is not known"),
        (["--model", "Qwen/Qwen2.5-32B", "--max-tokens", "32768"], "raise --tensor-parallel"),
        (["--samples", "paper", "--n", "4"], "--samples paper: sets the number of samples itself"),
        (["--max-tokens", "0"], "--max-tokens 0: expected the tokens of the longest response, at least 1"),
        (["--mean-tokens", "0"], "--mean-tokens 0: expected 1 to 4096"),
        (
            ["--mean-tokens", "5000"],
            "--mean-tokens 5000: expected 1 to 4096, the longest response of --max-tokens 4096",
        ),
        (["--max-tokens", "32768", "--mean-tokens", "32000"], "--mean-tokens 32000: expected 1 to 31744, the longest"),
        (["--benchmarks", "mine"], "expected some of aime24, "),
    ],
)
def test_bad_input_gets_one_line(flags, message, capsys):
    assert cost.main([*(["--model", QWEN] if "--model" not in flags else []), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("lengths", ["", ",", "4k", "4096,x"])
def test_lengths_that_are_none(lengths, capsys):
    with pytest.raises(SystemExit) as ended:
        cost.main(["--model", QWEN, "--max-tokens", lengths])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"--max-tokens: found {lengths!r}, expected whole numbers" in said


def test_a_model_without_room_for_a_response(tmp_path, capsys):
    config = {"model_type": "qwen3", "vocab_size": 400, "hidden_size": 16, "intermediate_size": 32}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cost.main(["--model", str(tmp_path)]) == 2
    assert "has 1,024 positions, expected more than the 1,024 of a prompt" in capsys.readouterr().err


def test_a_model_that_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"leaves a cache of [\d,]+ tokens on 1 of them"):
        evaluation.cost("Qwen/Qwen2.5-32B", "h100", 1, 1, 100, 31_000, None)
