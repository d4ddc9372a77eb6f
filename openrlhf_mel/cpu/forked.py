"""A fork that becomes the process that was asked for, as if Python had started it."""

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


def become(request: dict[str, Any], files: list[int], program: str, ready: Callable[[], None]) -> NoReturn:
    """Run the request's command line and end as Python ends.

    Args:
        request: what `fork_client` sends.
        files: its open files, in the order of `request["files"]`.
        program: what is to stand for Python when this process spawns others.
        ready: called once the environment is the request's.
    """
    code = 1
    try:
        _forget()
        _take_signals(request["group"], request["ignored"])
        _take_files(files, request["files"])
        _take_environment(request["env"])
        os.umask(request["umask"])
        os.chdir(request["cwd"])
        multiprocessing.process.ORIGINAL_DIR = request["cwd"]
        multiprocessing.spawn.set_executable(program)
        ready()
        code = _run(request["argv"], request["blocked"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _end(code)


def _forget() -> None:
    """What this process is to tidy up at its end is its own alone, and none of its random numbers is another fork's."""
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    multiprocessing.util._finalizer_registry.clear()
    multiprocessing.process._children.clear()
    tracker = multiprocessing.resource_tracker._resource_tracker
    tracker._fd = tracker._pid = None
    # As their modules did when the owner imported them.
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _take_signals(group: int, ignored: list[int]) -> None:
    """Ignore what the client ignores; `_run` blocks what it blocks. Ray keeps a terminal's Ctrl-C from its workers so.

    A fork cannot join the client's process group, which may be another session's, but leaves the owner's when the client has.
    """
    if group != os.getpgrp():
        os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else usual)


def _take_files(files: list[int], numbers: list[int]) -> None:
    """Give `files` the client's `numbers`, and close all else."""
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
    """Change what differs, and nothing else: Ray finds the place of a process's title beside the first environment."""
    for name in os.environ.keys() - new.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in new.items() if os.environ.get(name) != value})
    more = filter(None, new.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[1:1] = [path for path in more if path not in sys.path[1:]]


def _run(argv: list[str], blocked: list[int]) -> int:
    """Run `SCRIPT [ARGUMENT ...]` or `-c CODE [ARGUMENT ...]` as `__main__`. Returns the exit code, of a signal negative."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # those that have come by now are heeded here
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
        sys.excepthook(type(error), error, error.__traceback__.tb_next)  # without this function's own line
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(code: int) -> NoReturn:
    """Wait for threads, tidy up, flush, end: each whatever becomes of the one before."""
    for step in (threading._shutdown, atexit._run_exitfuncs):
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
