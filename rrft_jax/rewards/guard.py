"""Worker processes that run functions on hostile text, with a time limit and without exceptions.

    call("package.module.function", [(text, "4"), (other, "4")]) -> [True, None]

A call that raises, hangs, dies or uses too much memory gives None and is counted (`failures`). Its
worker is replaced. `run` returns the reason of a failure and counts nothing. Processes are needed,
because neither a thread nor a signal can end a long multiplication or a regular expression inside
C code.

Functions that take linear time need no guard, and run where they are called.
"""

import atexit
import collections
import contextlib
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from typing import Any

from rrft_jax.rewards import worker
from rrft_jax.rewards.worker import Failure

SECONDS = 2.0  # time limit of a completion, unless `limit` sets another
_START = 60.0  # time limit in seconds for a worker to start and import the function
_MOST_WORKERS = 4
_LONGEST_TEXT = 200  # characters kept of a failed completion

_lock = threading.RLock()
_idle: list["_Worker"] = []
_failures = 0
_recent: collections.deque[Failure] = collections.deque(maxlen=1024)
_seconds = contextvars.ContextVar("seconds", default=SECONDS)


class _Worker:
    """A worker process at the other end of a socket."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        with theirs:
            # A fresh interpreter, because a fork would share locks with JAX's threads. Spawning by
            # multiprocessing would run the user's script again.
            program = f"from {worker.__name__} import main; main({theirs.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    "JAX_PLATFORMS": "cpu",  # the run holds the accelerators
                },
                start_new_session=True,  # Ctrl-C must reach only the run
            )
        self.connection = connection.Connection(ours.detach())

    def start(self, task: int, function: str, arguments: tuple, seconds: float) -> None:
        self.task, self._seconds, self._running, self._late = task, seconds, 0, False
        self.deadline = time.monotonic() + _START
        self.connection.send((sys.path, function, arguments, seconds))

    def read(self) -> worker.Answer | None:
        """Return the outcome of the call, None if unknown yet; "gone" if the worker died too."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            return worker.Answer("gone", Failure("its process ended, or couldn't start"))
        if answer.state == "started":
            self._running, self.deadline = answer.value, time.monotonic() + self._seconds
            return None
        if answer.state == "lost":
            return worker.Answer("lost", self._end())
        return None if self._late else answer

    def _end(self) -> Failure:
        """Return the reason why the process of the call ended."""
        if self._late:
            return Failure(f"took longer than its time limit, {self._seconds:g} s", timed_out=True)
        return Failure("its process died: it crashed, or was killed for its memory")

    def end(self) -> worker.Answer | None:
        """End a call whose time is up; `read` returns its outcome later."""
        if self._late or not self._running:  # the process couldn't start or end in time
            return worker.Answer("gone", Failure(f"couldn't start within {_START:g} s"))
        self._late, self.deadline = True, time.monotonic() + _START
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._running, signal.SIGKILL)
        return None

    def close(self) -> None:
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Set how long each completion may take inside the block."""
    token = _seconds.set(seconds)
    try:
        yield
    finally:
        _seconds.reset(token)


def call(function: str, arguments: Sequence[tuple]) -> list[Any]:
    """Return the results of `run`; each call is about the text that its arguments begin with.

    A failed call gives None and is counted.
    """
    results = run(function, arguments)
    for place, result in enumerate(results):
        if isinstance(result, Failure):
            count(result._replace(text=str(arguments[place][0])))
            results[place] = None
    return results


def run(function: str, arguments: Sequence[tuple], *, completions: int = 1) -> list[Any]:
    """Call a function, named by its dotted path, with each tuple of arguments.

    Args:
      function: a dotted path that a fresh interpreter can import; the function's arguments and
        result must be picklable.
      arguments: one tuple per call. A few processes share the calls.
      completions: the number of completions of one call; its time limit grows with it.

    Returns:
      The results in order; a `Failure` for a call that failed.
    """
    results: list[Any] = [None] * len(arguments)
    waiting = list(range(len(arguments)))[::-1]
    busy: list[_Worker] = []
    most = min(_MOST_WORKERS, os.cpu_count() or 1)
    time_given = _seconds.get() * max(1, completions)
    with _lock:
        try:
            while waiting or busy:
                while waiting and len(busy) < most:
                    one = _idle.pop() if _idle else _Worker()
                    busy.append(one)
                    try:
                        one.start(waiting[-1], function, arguments[waiting[-1]], time_given)
                        waiting.pop()
                    except OSError:  # it died while it was idle, not because of this call
                        busy.remove(one)
                        one.close()
                rest = min(one.deadline for one in busy) - time.monotonic()
                ready = connection.wait([one.connection for one in busy], max(0.0, rest))
                for one in list(busy):
                    answer = None
                    if one.connection in ready:
                        answer = one.read()
                    elif time.monotonic() >= one.deadline:
                        answer = one.end()
                    if answer is None:
                        continue
                    results[one.task] = answer.value
                    busy.remove(one)
                    if answer.state == "gone":
                        one.close()
                    else:
                        _idle.append(one)
        finally:
            for one in busy:  # only after an exception, such as KeyboardInterrupt
                one.close()
    return results


def count(failure: Failure) -> None:
    """Count one completion that a reward failed on."""
    global _failures
    _failures += 1
    _recent.append(failure._replace(text=failure.text[:_LONGEST_TEXT]))


def failures() -> int:
    """Return the number of completions that have failed so far, in this process."""
    return _failures


def recent(number: int) -> list[Failure]:
    """Return the last counted failures, at most `number` of them."""
    return list(_recent)[-number:] if number else []


def _forget() -> None:
    """Forget the parent's workers in a forked process: two processes can't share a worker."""
    global _lock
    _lock = threading.RLock()  # a thread that isn't here may hold the parent's lock
    _idle.clear()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def close() -> None:
    """End the workers; the next call starts new ones."""
    with _lock:
        while _idle:
            _idle.pop().close()
