"""Runs functions on hostile text in worker processes: with a time limit, and nothing gets out.

    call("package.module.function", [(text, "4"), (other, "4")]) -> [True, None]

A call that raises, hangs, dies or eats memory gives None and is counted (`failures`); its worker is
replaced. `run` says how it failed, and counts nothing. Nothing else can end a long multiplication
or a regular expression inside C code, neither a thread nor a signal.

What needs no guard is written to take linear time, and runs at once where it's called.
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

SECONDS = 2.0  # that a completion may take, unless `limit` says otherwise
_START = 60.0  # and that a worker may take to start and import what it's to call
_MOST_WORKERS = 4
_LONGEST_TEXT = 200  # characters that are kept of a completion that failed

_lock = threading.RLock()
_idle: list["_Worker"] = []
_failures = 0
_recent: collections.deque[Failure] = collections.deque(maxlen=1024)
_seconds = contextvars.ContextVar("seconds", default=SECONDS)


class _Worker:
    """A process of its own, at the other end of a socket."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        with theirs:
            # A fresh interpreter: a fork would share locks with JAX's threads, and spawning by
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
                    "JAX_PLATFORMS": "cpu",  # the accelerators are taken
                },
                start_new_session=True,  # Ctrl-C is for the run, which ends its workers itself
            )
        self.connection = connection.Connection(ours.detach())

    def start(self, task: int, function: str, arguments: tuple, seconds: float) -> None:
        self.task, self._seconds, self._running, self._late = task, seconds, 0, False
        self.deadline = time.monotonic() + _START
        self.connection.send((sys.path, function, arguments, seconds))

    def read(self) -> worker.Answer | None:
        """What has become of the call, if that's known by now; "gone" where the worker is, too."""
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
        """Why the process of the call is no more."""
        if self._late:
            return Failure(f"took longer than its time limit, {self._seconds:g} s", timed_out=True)
        return Failure("its process died: it crashed, or was killed for its memory")

    def end(self) -> worker.Answer | None:
        """Ends the call, for its time is up; what has become of it is still to be read."""
        if self._late or not self._running:  # it can't even start
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
    """The results of `run`, each about the text that its arguments begin with.

    None for a call that failed, and is counted.
    """
    results = run(function, arguments)
    for place, result in enumerate(results):
        if isinstance(result, Failure):
            count(result._replace(text=str(arguments[place][0])))
            results[place] = None
    return results


def run(function: str, arguments: Sequence[tuple], *, completions: int = 1) -> list[Any]:
    """Calls a function, named by its dotted path, with each tuple of arguments.

    Args:
      function: what a fresh interpreter can import; its result and arguments can be pickled.
      arguments: one tuple a call. The calls are shared out among a few processes.
      completions: that one call is about, each of which has its time.

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
                    except OSError:  # it died while it was idle: the call isn't to blame
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
    """Counts one completion that a reward failed on."""
    global _failures
    _failures += 1
    _recent.append(failure._replace(text=failure.text[:_LONGEST_TEXT]))


def failures() -> int:
    """How many completions have failed so far, in this process."""
    return _failures


def recent(number: int) -> list[Failure]:
    """The last ones that were counted, as far as they are known."""
    return list(_recent)[-number:] if number else []


def _forget() -> None:
    """The workers of a forked process's parent are not its own: two can't talk to one of them."""
    global _lock
    _lock = threading.RLock()  # the parent's may be held by a thread that isn't here
    _idle.clear()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def close() -> None:
    """Ends the workers; the next call starts new ones."""
    with _lock:
        while _idle:
            _idle.pop().close()
