"""The other side of the guard: a process that calls what it's told to, until nobody asks.

Two processes, in fact. The first has imported math-verify, which takes seconds, and forks the one
that does the work; when that is ended or dies, it forks the next in no time.
"""

import importlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, NamedTuple

MATHEMATICS = "rrft_jax.rewards.mathematics"
MEMORY = 4 << 30  # bytes that a worker may take; a call that wants more fails
WORN_OUT = 1 << 20  # KiB: past them a worker makes room for a fresh one
_FRAMES, _LONGEST_TRACEBACK, _LONGEST_REASON = 20, 4000, 300  # of an exception
_NOBODY_ASKS, _IS_WORN_OUT = 64, 65  # exit codes


class Failure(NamedTuple):
    """How a call failed: in a line, with the traceback if it raised; and on which text."""

    reason: str
    traceback: str = ""
    timed_out: bool = False
    text: str = ""


class Wrong(ValueError):
    """A result of no use. The message says all; where it was raised says nothing."""


class Answer(NamedTuple):
    """What a worker says.

    "started" when all is imported and the time begins, with its process id; then "done" with the
    result, "failed" after an exception, with a `Failure`, or "lost" if it died.
    """

    state: str
    value: Any = None


def find(function: str) -> Callable:
    """What a dotted path names.

    Raises:
      ImportError, AttributeError: there's no such module or function.
    """
    module, _, name = function.rpartition(".")
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
        except Exception as error:  # something of a class that can't be imported here
            other.send(Answer("failed", _failure(error)))
            continue
        try:
            called = find(function)
            other.send(Answer("started", os.getpid()))
            # Whoever waits ends a call that takes too long. Should they be gone, this does.
            signal.setitimer(signal.ITIMER_REAL, seconds + 10)
            answer = Answer("done", called(*arguments))
        except BaseException as error:  # a parser of foreign text comes to anything
            answer = Answer("failed", _failure(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
        other.send(answer)
    return _IS_WORN_OUT


def _failure(error: BaseException) -> Failure:
    """An exception as text: it may be of a class that can't be sent, or not even be printed."""
    if isinstance(error, Wrong):
        return Failure(str(error))
    try:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # not this file's
        lines = traceback.format_exception(error, limit=-_FRAMES)
        reason = " ".join(traceback.format_exception_only(error)[-1].split())
        return Failure(reason[:_LONGEST_REASON], "".join(lines)[-_LONGEST_TRACEBACK:])
    except BaseException:  # its own text, or memory
        return Failure(type(error).__name__)
