"""A failed run reports the first cause; for an engine, the first one that its processes logged."""

import pytest

from openrlhf_mel.run.failure import EngineDied, describe

RAY = "\x1b[36m(RolloutEngine pid=5, ip=10.0.0.2)\x1b[0m "
CORE = RAY + "(EngineCore pid=7) "


class TaskError(Exception):
    """Like Ray's, with the cause as an attribute."""

    def __init__(self, cause):
        super().__init__("ray::fit() (pid=3)\n  File x\nTaskError: far away")
        self.cause = cause


def traced(prefix: str, *exceptions: str) -> list[str]:
    lines = []
    for exception in exceptions:
        lines += ["Traceback (most recent call last):", '  File "a.py", line 1, in f', "    f()", exception, ""]
    return [f"{prefix}{line}\n" for line in lines]


DEAD = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
BROKEN = RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
SILENT = Exception("Call to collective_rpc method failed: ")


@pytest.mark.parametrize(
    "error", [DEAD, BROKEN, SILENT, TaskError(DEAD), EngineDied(1, 2, BROKEN), EngineDied(1, 2, SILENT)], ids=str
)
def test_the_first_exception_of_the_engines_processes(error):
    log = [
        *traced("", "KeyError: of somebody else"),
        *traced(CORE, "ValueError: No available memory", "RuntimeError: after it"),
        *traced(RAY, "RuntimeError: Engine core initialization failed"),
    ]
    said = describe(error, log)
    assert said.endswith("ValueError: No available memory")
    assert said.startswith("rollout engine 1 of 2 died: ") == isinstance(error, EngineDied)


@pytest.mark.parametrize("error", [BROKEN, EngineDied(2, 2, BROKEN)], ids=str)
def test_an_engine_that_said_nothing(error):
    said = describe(error, traced("", "KeyError: of somebody else"))
    assert "its process ended without a word (killed, or out of memory?)" in said and "KeyError" not in said


def test_an_error_that_is_no_engines():
    """An exception that an engine's process logged did not end the run, so it is not reported."""
    log = traced(CORE, "ValueError: harmless")
    assert describe(TaskError(KeyError("x")), log) == "KeyError: 'x'"
    assert describe(ValueError("one\n\n  two \n"), []) == "ValueError: two"
    assert describe(ValueError(), []) == "ValueError: "
    died = "The actor died\n\tpid: 7\nWorker exit detail: killed by SIGKILL"
    said = describe(EngineDied(1, 1, RuntimeError(died)), [])
    assert said == "rollout engine 1 of 1 died: RuntimeError: Worker exit detail: killed by SIGKILL"


def test_it_is_not_long():
    assert len(describe(ValueError("x" * 10_000), [])) == 500
