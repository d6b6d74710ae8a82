"""The worker side of the guard: a process that calls functions until the guard is gone.

These are two processes. The first imports math-verify, which takes seconds, and forks a second
process that does the work. When the second process is ended or dies, the first forks the next one
at once.
"""

import importlib
import os
import resource
import signal
import sys
import traceback
from multiprocessing import connection
from typing import Any, NamedTuple

MATHEMATICS = "rrft_jax.rewards.mathematics"
MEMORY = 4 << 30  # memory limit of a worker in bytes; a call that needs more fails
WORN_OUT = 1 << 20  # KiB of memory; a larger worker is replaced by a fresh one
_FRAMES, _LONGEST_TRACEBACK, _LONGEST_REASON = 20, 4000, 300  # limits of a reported exception
_NOBODY_ASKS, _IS_WORN_OUT = 64, 65  # exit codes


class Failure(NamedTuple):
    """The reason of a failed call in one line, the traceback if it raised, and its text."""

    reason: str
    traceback: str = ""
    timed_out: bool = False
    text: str = ""


class Wrong(ValueError):
    """An unusable result. The message is complete, so no traceback is reported."""


class Answer(NamedTuple):
    """A message of a worker.

    Its state is "started" when all is imported and the time begins, with the process id. Then it is
    "done" with the result, "failed" with a `Failure` after an exception, or "lost" if the process
    died.
    """

    state: str
    value: Any = None


def find(path: str) -> Any:
    """Return the object at a dotted path: a module, a dot, and a name inside of it.

    Raises:
      ImportError, AttributeError: there is no such module or name. The module's own code may raise
        anything else.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def main(descriptor: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    importlib.import_module(MATHEMATICS)
    with connection.Connection(descriptor) as other:
        code = None
        while code != _NOBODY_ASKS:
            child = os.fork()
            if not child:
                os._exit(_serve(other))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code not in (_NOBODY_ASKS, _IS_WORN_OUT):
                other.send(Answer("lost"))


def _serve(other: connection.Connection) -> int:
    while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < WORN_OUT:
        try:
            sys.path[:], function, arguments, seconds = other.recv()
        except EOFError:
            return _NOBODY_ASKS
        except Exception as error:  # an argument whose class can't be imported here
            other.send(Answer("failed", _failure(error)))
            continue
        try:
            called = find(function)
            other.send(Answer("started", os.getpid()))
            # The guard ends a call that takes too long. If the guard is gone, this alarm does.
            signal.setitimer(signal.ITIMER_REAL, seconds + 10)
            answer = Answer("done", called(*arguments))
        except BaseException as error:  # a parser of foreign text may raise anything
            answer = Answer("failed", _failure(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
        other.send(answer)
    return _IS_WORN_OUT


def _failure(error: BaseException) -> Failure:
    """Return an exception as text, because its class may be impossible to send, or to print."""
    if isinstance(error, Wrong):
        return Failure(str(error))
    try:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # not this file's
        lines = traceback.format_exception(error, limit=-_FRAMES)
        reason = " ".join(traceback.format_exception_only(error)[-1].split())
        return Failure(reason[:_LONGEST_REASON], "".join(lines)[-_LONGEST_TRACEBACK:])
    except BaseException:  # the exception's own __str__ failed, or memory ran out
        return Failure(type(error).__name__)
