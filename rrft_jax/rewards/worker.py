"""The other side of the guard: a process that calls what it's told to, until nobody asks.

Two processes, in fact. The first has imported math-verify, which takes seconds, and forks the one
that does the work; when that is ended or dies, it forks the next in no time.
"""

import importlib
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

MATHEMATICS = "rrft_jax.rewards.mathematics"
MEMORY = 4 << 30  # bytes that a worker may take; a call that wants more fails
WORN_OUT = 1 << 20  # KiB: past them a worker makes room for a fresh one
_NOBODY_ASKS, _IS_WORN_OUT = 64, 65  # exit codes


class Answer(NamedTuple):
    """What a worker says.

    "started" when all is imported and the time begins, with its process id; then "done" with the
    result, "failed" after an exception, or "lost" if it died.
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


def own(name: str, completions: Sequence[str], example: Any, given: dict) -> list[float]:
    """The values of a user's reward, checked: a finite number for each completion."""
    values = [float(value) for value in find(name)(completions, example, **given)]
    if len(values) != len(completions) or not all(map(math.isfinite, values)):
        raise ValueError(f"{name}: expected {len(completions)} numbers, found {values}")
    return values


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
        except Exception:  # something of a class that can't be imported here
            other.send(Answer("failed"))
            continue
        try:
            called = find(function)
            other.send(Answer("started", os.getpid()))
            # Whoever waits ends a call that takes too long. Should they be gone, this does.
            signal.setitimer(signal.ITIMER_REAL, seconds + 10)
            answer = Answer("done", called(*arguments))
        except BaseException:  # a parser of foreign text comes to anything
            answer = Answer("failed")
        signal.setitimer(signal.ITIMER_REAL, 0)
        other.send(answer)
    return _IS_WORN_OUT
