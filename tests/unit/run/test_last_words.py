"""The cause of a process's death, read from its output: Python's tracebacks, plain and in vLLM's log format."""

import traceback

import pytest

from openrlhf_mel.run.last_words import last_words

CORE = "(EngineCore pid=71) ERROR 02-01 10:00:03 [core.py:1136] "
OTHER = "(EngineCore pid=71) INFO 02-01 10:00:03 [core.py:99] "
FRAMES = ['  File "core.py", line 9, in run', "    self._init()", "    ^^^^^^^^^^^^"]
PARENT = [
    "Traceback (most recent call last):",
    '  File "utils.py", line 1, in wait',
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]


def traced(head, message, frames=FRAMES):
    return [head + line for line in ("Traceback (most recent call last):", *frames, *message)]


def chained(how):
    """Return Python's output for two exceptions, the second caused by the first."""
    try:
        try:
            raise ImportError("no module of that name")
        except ImportError as error:
            if how == "cause":
                raise RuntimeError("needs it") from error
            raise RuntimeError("needs it")  # noqa: B904
    except RuntimeError as error:
        return "".join(traceback.format_exception(error)).splitlines(keepends=True)


@pytest.mark.parametrize("how", ["cause", "context"])
def test_of_exceptions_that_follow_from_each_other_the_first_comes_first(how):
    said = last_words(chained(how), 1)
    assert said.exceptions == ["ImportError: no module of that name", "RuntimeError: needs it"]
    assert said.lines == ["RuntimeError: needs it"]


def test_the_cause_is_the_first_that_says_something():
    said = [*traced("", ["StopIteration"]), "", *traced("", ["KeyError: 'vllm'"]), "", *PARENT]
    assert last_words(said, 1).cause == "KeyError: 'vllm'"
    assert last_words(traced("", ["StopIteration"]), 1).cause == "StopIteration"
    assert last_words([], 1).cause is None


@pytest.mark.parametrize("head", ["", CORE])
def test_an_assertion_without_a_message_says_what_was_asserted(head):
    frames = [
        *FRAMES,
        '  File "weights.py", line 3, in load',
        "    assert held.shape == sent.shape",
        "           ^^^^~~~~",
    ]
    assert (
        last_words(traced(head, ["AssertionError"], frames), 1).cause
        == "AssertionError: assert held.shape == sent.shape"
    )
    assert last_words(traced(head, ["AssertionError"], []), 1).cause == "AssertionError"
    assert last_words(traced(head, ["AssertionError: 5 rows"], frames), 1).cause == "AssertionError: 5 rows"


def test_a_childs_exception_comes_before_its_parents():
    output = [
        "INFO 02-01 10:00:00 [api.py:1] starting",
        *traced(CORE, ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"]),
        *traced("(EngineCore pid=71) ", ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"]),
        "",
        *PARENT,
    ]
    assert last_words(output, 2).exceptions == [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        PARENT[-1],
    ]


def test_lines_of_several_processes_may_be_mixed():
    one, two = (traced(f"(Worker_TP{i} pid=8{i}) ERROR 02-01 10:00:00 [w.py:7] ", [f"ValueError: {i}"]) for i in "01")
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    mixed.insert(5, OTHER + "a line in between")
    assert last_words(mixed, 1).exceptions == ["ValueError: 0", "ValueError: 1"]


def test_a_log_line_between_the_frames():
    lines = traced("", ["ValueError: after all"])
    lines.insert(2, "INFO 02-01 10:00:03 [x.py:1] from a thread")
    assert last_words(lines, 1).exceptions == ["ValueError: after all"]


def test_a_message_of_several_lines():
    message = [
        "pydantic.ValidationError: 1 validation error for ModelConfig",
        "  Value error, Unknown method: x",
        "",
        "else",
    ]
    assert last_words(traced("", message), 1).exceptions == [
        "pydantic.ValidationError: 1 validation error for ModelConfig Value error, Unknown method: x"
    ]
    assert last_words([*traced(CORE, message[:2]), OTHER + "next"], 1).exceptions[0].endswith("Unknown method: x")


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING"])
def test_what_was_only_warned_of_is_no_cause(level):
    harmless = traced(f"{level} 02-01 10:00:00 [import.py:3] ", ["ImportError: an extra that is not there"])
    assert last_words([*harmless, *PARENT], 1).exceptions == [PARENT[-1]]


def test_what_comes_after_an_exception_is_not_its_message():
    assert last_words(traced("", ["ValueError: this", "and another line"]), 1).exceptions == ["ValueError: this"]
    assert last_words(traced("", ["ValueError:", "that", "more"]), 1).exceptions == ["ValueError: that"]


def test_colours_and_control_characters_are_taken_out():
    output = [
        f"\x1b[1;36m(EngineCore pid=7)\x1b[0;0m {line}\n" for line in traced("", ["ValueError: a\x1b]0;title\x07b"])
    ]
    said = last_words(output, 1)
    assert said.exceptions == ["ValueError: a ]0;title b"] and said.lines == [
        "(EngineCore pid=7) ValueError: a ]0;title b"
    ]


def test_long_output_is_not_held():
    """Of very many lines only four are kept; a very long line is cut."""
    lines = (f"line {i}" for i in range(200_000))
    said = last_words([*traced("", ["ValueError: " + "x" * 10_000]), *lines], 4)
    assert said.lines == [f"line {i}" for i in range(199_996, 200_000)]
    assert len(said.exceptions) == 1 and len(said.exceptions[0]) < 2000


def test_nothing_said():
    assert last_words([], 4) == ([], [])
    assert last_words(["Killed", "", "Traceback (most recent call last):", '  File "x", line 1'], 2).exceptions == []
