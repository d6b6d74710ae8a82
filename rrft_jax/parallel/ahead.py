"""Compilation in other threads, of programs that a step will need.

JAX keeps what `program.lower(...).compile()` makes, so a later call with arguments of these shapes
compiles nothing. JAX traces under Python's lock, and compiles without it.
"""

import collections
import concurrent.futures
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

import jax

from rrft_jax.monitoring import compilations

_THREADS = 4  # at most; every compilation uses several threads of XLA's own


def shapes(tree: Any) -> Any:
    """Return the shapes, dtypes and shardings of arrays. A tree without them stays as it is."""

    def of(x: Any) -> Any:
        if not isinstance(x, jax.Array):
            return x
        where = x.sharding if x.committed else None
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where, weak_type=x.weak_type)

    return jax.tree.map(of, tree)


def result(program: Any, *args: Any) -> Any:
    """Compile a jitted program for shapes; return the shapes, dtypes and shardings of its result.

    Args:
      program: the result of `jax.jit`.
      *args: its arguments; any array may be a `jax.ShapeDtypeStruct`.
    """
    compiled = program.lower(*args).compile()
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        compiled.out_info,
        compiled.output_shardings,
    )


class Ahead:
    """Threads that compile. They live while there are jobs.

    At the exit of the process Python waits for them. They finish what they are in, and begin no
    more.
    """

    def __init__(self):
        self._free = min(_THREADS, max(1, (os.cpu_count() or 1) // 2))
        self._jobs: dict[Hashable, Future] = {}
        self._queue: collections.deque[tuple[Future, Callable[[], Any]]] = collections.deque()
        self._lock = threading.Lock()

    def knows(self, name: Hashable) -> bool:
        """Return whether a job of this name has been begun."""
        return name in self._jobs

    def begin(self, name: Hashable, compile: Callable[[], Any]) -> None:
        """Call `compile` in a thread, unless there has been a job of this name."""
        with self._lock:
            if name in self._jobs:
                return
            self._jobs[name] = job = Future()
            self._queue.append((job, compile))
            if self._free:
                self._free -= 1
                threading.Thread(target=self._work, name="compiling ahead").start()

    def finish(self, name: Hashable, words: str = "") -> None:
        """Wait for a job that is under way. One that no thread has begun is given up.

        The caller's own call then compiles the program at once. It also tells what was wrong if the
        job failed.

        Args:
          name: the name of the job, which need not exist.
          words: the program, for the line about a long wait.
        """
        job = self._jobs.get(name)
        if job is not None and not job.done() and not job.cancel():
            with compilations.waiting_for_thread(words):
                concurrent.futures.wait([job])

    def give_up(self, name: Hashable) -> None:
        """Take back a job, which need not exist, if no thread has begun it."""
        job = self._jobs.get(name)
        if job is not None:
            job.cancel()

    def _work(self) -> None:
        compilations.be_quiet()
        while True:
            with self._lock:
                if not self._queue or not threading.main_thread().is_alive():
                    self._free += 1
                    return
                job, compile = self._queue.popleft()
            if job.set_running_or_notify_cancel():
                try:
                    job.set_result(compile())
                except Exception as error:
                    job.set_exception(error)
