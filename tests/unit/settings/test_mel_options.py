import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.settings import mel_options
from openrlhf_mel.settings.mel_options import MELConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable", "yes"),
        ("algorithm", "ppo"),
        ("runtime", "gpu"),
        ("seed", -1),
        ("nll_coef", -0.1),
        ("nll_coef", "1"),
        ("nll_schedule", "exponential"),
        ("nll_warmup_steps", -1),
        ("nll_end_coef", -0.1),
        ("nll_end_step", 0),
        ("nll_mean_over", "tokens"),
        ("context", "none"),
        ("experience", "others"),
        ("pairs_per_question", 0),
        ("pairs_per_question", True),
        ("pairs_per_question", 1.5),
        ("pair_selection", "best"),
        ("max_new_tokens", 0),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("validation", "vote"),
        ("replays", 0),
        ("replays_required", 0),
        ("replay_max_new_tokens", 0),
        ("replay_temperature", -0.5),
        ("leak_filter", 1),
        ("warn_after_empty_steps", 0),
        ("guard_window", -1),
        ("cpu_dtype", "fp16"),
        ("top_p", float("nan")),
    ],
)
def test_refuses_what_is_out_of_range_and_names_the_flag(name, value):
    with pytest.raises(UserError, match=rf"--mel\.{name}: found"):
        MELConfig(**{name: value})


def test_more_required_replays_than_replays():
    with pytest.raises(UserError, match=r"--mel\.replays_required: found 3, expected at most --mel\.replays \(2\)"):
        MELConfig(replays=2, replays_required=3)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("enable", "False", False),
        ("nll_coef", "1e-1", 0.1),
        ("pairs_per_question", "3", 3),
        ("max_new_tokens", "none", None),
        ("max_new_tokens", "12", 12),
        ("template_dir", "some/dir", "some/dir"),
        ("algorithm", "rft", "rft"),
    ],
)
def test_reads_an_option_from_the_command_line(name, text, value):
    assert mel_options.parse_option(name, text) == value


@pytest.mark.parametrize(("name", "text"), [("enable", "1"), ("nll_coef", "much"), ("seed", "1.5")])
def test_refuses_an_unreadable_option(name, text):
    with pytest.raises(UserError, match=rf"--mel\.{name}: found '{text}', expected"):
        mel_options.parse_option(name, text)


def test_lengths_left_out_fit():
    filled = mel_options.with_lengths(MELConfig(), 2048, None)
    assert (filled.max_new_tokens, filled.replay_max_new_tokens) == (512, 1024)
    assert mel_options.with_lengths(MELConfig(), 2048, 100).replay_max_new_tokens == 100
    assert mel_options.with_lengths(MELConfig(max_new_tokens=7), 2048, 100).max_new_tokens == 7
    with pytest.raises(UserError, match=r"--mel\.max_new_tokens: found 2048, expected less than --data\.max_len"):
        mel_options.with_lengths(MELConfig(max_new_tokens=2048), 2048, None)


def test_help_has_one_line_for_each_option():
    lines = mel_options.help_lines().splitlines()
    assert [line.split()[0] for line in lines] == [f"--mel.{name}" for name in mel_options.option_names()]
    assert "(default: 0)" in next(line for line in lines if "--mel.seed" in line)
