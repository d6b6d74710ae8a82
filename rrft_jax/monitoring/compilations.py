"""XLA's compilations: their number, their time, and a line about each one that takes long.

The number reveals a shape that changes from step to step. The package does not import this module,
because it imports JAX, which reads its environment once.
"""

import collections
import contextlib
import threading
import time
from collections.abc import Iterator

import jax

from rrft_jax.monitoring import waits

_EVENT = "/jax/core/compile/backend_compile_duration"
# The parts of a compilation, by name. JAX reports a scalar at the beginning of each, a duration at
# its end.
_PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
    _EVENT: "compiling",
}
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
# Function -> its program in words. Other programs are called by the name of their function.
WORDS = {
    "sft_step": "the update of SFT",
    "grpo_step": "the update of GRPO",
    "score": "the log-probabilities",
    "begin": "the sampler's first part, which reads the prompts",
    "advance": "the sampler's loop",
    "grow": "the sampler's longer cache",
    "compact": "the sampler's smaller batch",
    "decoding_layer": "the sampler's weights",
    "decoding_ends": "the sampler's weights",
    "fill": "the layout of the weights",
    "quantise": "the weights in int8",
    "fresh": "a new adapter",
    "is_fresh": "the check whether an adapter is new",
}
_counts: collections.Counter[str] = collections.Counter()
_kept: collections.Counter[str] = collections.Counter()
_lock = threading.Lock()  # of the counts
_listening = False


class _Open(threading.local):
    """The compilations of this thread.

    Attributes:
      inner: for each part that the thread is in, the outermost first, the seconds of parts in it.
      wait: the line about the outermost part.
      kept: whether the present program came from the cache.
      seconds: the seconds of finished parts, by name.
      quiet: whether no line is printed, because nothing waits for this thread.
    """

    def __init__(self):
        self.inner: list[float] = []
        self.wait: threading.Timer | None = None
        self.kept = False
        self.seconds: collections.Counter[str] = collections.Counter()
        self.quiet = False


_open = _Open()


def listen() -> None:
    """Count compilations from now on, and say which one takes long; a second call does nothing."""
    global _listening
    if not _listening:
        jax.monitoring.register_scalar_listener(_begin)
        jax.monitoring.register_event_listener(_note)
        jax.monitoring.register_event_duration_secs_listener(_end)
        _listening = True


def be_quiet() -> None:
    """Print no line about a long compilation of this thread."""
    _open.quiet = True


def total(program: str = "") -> int:
    """Return the number of programs that this process has got since `listen`.

    Args:
      program: a part of the programs' names; "" counts all programs.
    """
    return _sum(_counts, program)


def kept(program: str = "") -> int:
    """Return how many of these came from JAX's cache, so that they were not compiled here."""
    return _sum(_kept, program)


def seconds() -> dict[str, float]:
    """Return the seconds of "tracing" and of "compiling" in this thread since `listen`.

    Reading from the cache is a part of compiling, and so is the wait for another thread.
    """
    return {part: _open.seconds[part] for part in ("tracing", "compiling")}


@contextlib.contextmanager
def waiting_for_thread(words: str) -> Iterator[None]:
    """Count the block as compiling, and print `words` if it takes long."""
    began = time.perf_counter()
    with waits.waiting(words and f"compiling {words}"):
        yield
    _open.seconds["compiling"] += time.perf_counter() - began


def _sum(counts: collections.Counter[str], program: str) -> int:
    with _lock:
        return sum(count for name, count in counts.items() if program in name)


def _begin(event: str, value: float, **details) -> None:
    del value
    if event not in _PARTS:
        return
    _open.inner.append(0.0)
    # A program is traced with the programs that it calls.
    if len(_open.inner) == 1 and not _open.quiet:
        name = str(details.get("fun_name", ""))
        own = name.removeprefix("jit(").removesuffix(")")
        number = _counts[f"jit({own})"]  # of other shapes that are compiled already
        more = f", shape {number + 1}" if number else ""
        _open.wait = waits.begin(f"compiling {WORDS.get(own, own)}{more}")


def _note(event: str, **details) -> None:
    del details
    if event == _CACHE_HIT:
        _open.kept = True


def _end(event: str, duration: float, **details) -> None:
    if event == _EVENT:
        name = str(details.get("fun_name", ""))
        with _lock:
            _counts[name] += 1
            _kept[name] += _open.kept
        _open.kept = False
    if event in _PARTS and _open.inner:
        _open.seconds[_PARTS[event]] += duration - _open.inner.pop()
        if _open.inner:
            _open.inner[-1] += duration
        elif _open.wait:
            _open.wait.cancel()
            _open.wait = None
