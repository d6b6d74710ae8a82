"""Seconds of the parts of a step, added up by name."""

import collections
import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Adds up the seconds that are spent under each name.

    clock = Stopwatch()
    with clock("sample"):
        ...
    clock.seconds  # {"seconds_sample": 1.2}
    """

    def __init__(self):
        self.seconds: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the time that is spent inside the block; nothing where it raises."""
        started = time.perf_counter()
        yield
        self.seconds[f"seconds_{name}"] += time.perf_counter() - started

    @property
    def total(self) -> float:
        return self.seconds.total()
