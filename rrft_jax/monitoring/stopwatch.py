"""The seconds of the parts of a step, added up by name.

The package does not import this module, because it imports JAX.
"""

import collections
import contextlib
import time
from collections.abc import Iterator

import jax


class Stopwatch:
    """A sum of the seconds that are spent under each name.

    clock = Stopwatch()
    with clock("sample"):
        ...
    clock.seconds  # {"seconds_sample": 1.2}
    """

    def __init__(self):
        self.seconds: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time that is spent inside the block; add nothing if the block raises.

        A profile shows the block by its name.
        """
        started = time.perf_counter()
        with jax.profiler.TraceAnnotation(name):
            yield
        self.seconds[f"seconds_{name}"] += time.perf_counter() - started

    @property
    def total(self) -> float:
        """The sum of the seconds of all names."""
        return self.seconds.total()
