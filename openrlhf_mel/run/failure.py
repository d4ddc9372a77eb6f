"""The first cause of a run's failure in one line, from an exception and the run's log. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from openrlhf_mel.run.last_words import last_words

# vLLM's processes besides Ray's actor: they report their failure in the log alone, and the actor refers to it.
_ENGINE_PROCESSES = ("(EngineCore", "(Worker")
_LONGEST = 500  # characters


class EngineDied(Exception):
    """A rollout engine is dead. `error`: what Ray or vLLM reports."""

    def __init__(self, number: int, engines: int, error: BaseException) -> None:
        super().__init__(f"rollout engine {number} of {engines} died")
        self.error = self.__cause__ = error


def describe(error: BaseException, log: Iterable[str]) -> str:
    """The innermost cause of `error`, as `Type: message`; for a dead engine, the first one that its processes reported.

    Args:
        log: the lines that this run added to its log.
    """
    said = ""
    if isinstance(error, EngineDied):
        said, error = f"{error}: ", error.error
    cause: BaseException = getattr(error, "cause", None) or error
    refers = _refers(error) or _refers(cause)
    if said or refers:
        own = (line for line in log if any(name in line for name in _ENGINE_PROCESSES))
        if told := last_words(own, 1).exceptions:
            return f"{said}{told[0]}"[:_LONGEST]
    if refers:
        return f"{said}its process ended without a word (killed, or out of memory?)"
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    return f"{said}{type(cause).__name__}: {lines[-1] if lines else ''}"[:_LONGEST]


def _refers(error: BaseException) -> bool:
    """Whether an error says no more than that vLLM's core is dead, and refers to its output."""
    said = str(error).rstrip()
    # The last of these texts is followed by the cause, if that has a message: an assertion has none.
    return (
        "EngineCore encountered an issue" in said
        or "Engine core initialization failed" in said
        or said.endswith("method failed:")
    )
