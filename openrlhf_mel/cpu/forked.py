"""A fork that becomes the requested process, as if Python had started it."""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import multiprocessing
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.spawn
import multiprocessing.util
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

# Names of these are used that are not public, so that type checkers do not know them.
_finalize: Any = weakref.finalize
_process: Any = multiprocessing.process
_threading: Any = threading
_tracker: Any = multiprocessing.resource_tracker._resource_tracker
_util: Any = multiprocessing.util


def become(request: dict[str, Any], files: list[int], program: str, ready: Callable[[], None]) -> NoReturn:
    """Run the request's command line and end as Python ends.

    Args:
        request: what `fork_client` sends.
        files: its open files, in the order of `request["files"]`.
        program: replaces Python when this process spawns others.
        ready: called when the environment is the request's.
    """
    code = 1
    try:
        _forget()
        _take_signals(request["group"], request["ignored"])
        _take_files(files, request["files"])
        _take_environment(request["env"])
        os.umask(request["umask"])
        os.chdir(request["cwd"])
        _process.ORIGINAL_DIR = request["cwd"]
        multiprocessing.spawn.set_executable(program)
        ready()
        code = _run(request["argv"], request["blocked"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _end(code)


def _forget() -> None:
    """Drop inherited exit handlers, and reseed: no two forks may clean up the same things or draw the same numbers."""
    atexit._clear()
    _finalize._registry.clear()
    _finalize._registered_with_atexit = False
    _util._finalizer_registry.clear()
    _process._children.clear()
    _tracker._fd = _tracker._pid = None
    # As these modules did when the owner imported them.
    atexit.register(logging.shutdown)
    atexit.register(_util._exit_function)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _take_signals(group: int, ignored: list[int]) -> None:
    """Ignore the signals that the client ignores: so Ray keeps a terminal's Ctrl-C from its workers. `_run` sets the mask.

    A fork cannot join the client's process group, which may be in another session, but leaves the owner's if the client
    did.
    """
    if group != os.getpgrp():
        os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)


def _take_files(files: list[int], numbers: list[int]) -> None:
    """Give `files` the client's `numbers`, and close all other files."""
    above = max([2, *numbers, *files]) + 1
    moved = [os.dup2(file, above + i) for i, file in enumerate(files)]
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number not in numbers:
            setattr(sys, name, None)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in numbers:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(number)


def _take_environment(new: dict[str, str]) -> None:
    """Change only variables that differ: Ray locates the memory of a process's title next to the first environment."""
    for name in os.environ.keys() - new.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in new.items() if os.environ.get(name) != value})
    more = filter(None, new.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[1:1] = [path for path in more if path not in sys.path[1:]]


def _run(argv: list[str], blocked: list[int]) -> int:
    """Run `SCRIPT [ARGUMENT ...]` or `-c CODE [ARGUMENT ...]` as `__main__`. Returns the exit code, -N for signal N."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # signals that arrived meanwhile are handled here
        if argv[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *argv[2:]], ""
            code = compile(argv[1], "<string>", "exec")
        else:
            sys.argv, sys.path[0] = argv, os.path.dirname(argv[0])
            main.__file__ = argv[0]
            with io.open_code(os.path.abspath(argv[0])) as file:
                code = compile(file.read(), argv[0], "exec")
        exec(code, main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        own = error.__traceback__
        sys.excepthook(type(error), error, own and own.tb_next)  # without this function's own line
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(code: int) -> NoReturn:
    """Wait for threads, clean up, flush, end: each even if the one before fails."""
    for step in (_threading._shutdown, atexit._run_exitfuncs):
        with contextlib.suppress(BaseException):
            step()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BaseException:
            code = code or 120  # as Python has it
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
