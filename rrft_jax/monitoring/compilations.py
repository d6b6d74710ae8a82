"""XLA's compilations: their number, and a line about each one that takes long.

The number reveals a shape that changes from step to step. The package does not import this module,
because it imports JAX, which reads its environment once.
"""

import collections
import threading

import jax

from rrft_jax.monitoring import waits

_EVENT = "/jax/core/compile/backend_compile_duration"
# The parts of a compilation. JAX reports a scalar at the beginning of each, a duration at its end.
_PARTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    _EVENT,
)
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
_listening = False


class _Open(threading.local):
    """The parts of compilations that this thread is in, the outermost first, and their wait."""

    def __init__(self):
        self.depth = 0
        self.wait: threading.Timer | None = None


_open = _Open()


def listen() -> None:
    """Count compilations from now on, and say which one takes long; a second call does nothing."""
    global _listening
    if not _listening:
        jax.monitoring.register_scalar_listener(_begin)
        jax.monitoring.register_event_duration_secs_listener(_end)
        _listening = True


def total(program: str = "") -> int:
    """Return the number of compilations in this process since `listen`.

    Args:
      program: a part of the programs' names; "" counts all programs.
    """
    return sum(count for name, count in _counts.items() if program in name)


def _begin(event: str, value: float, **details) -> None:
    del value
    if event not in _PARTS:
        return
    _open.depth += 1
    if _open.depth == 1:  # a program is traced with the programs that it calls
        name = str(details.get("fun_name", ""))
        own = name.removeprefix("jit(").removesuffix(")")
        number = _counts[f"jit({own})"]  # of other shapes that are compiled already
        more = f", shape {number + 1}" if number else ""
        _open.wait = waits.begin(f"compiling {WORDS.get(own, own)}{more}")


def _end(event: str, duration: float, **details) -> None:
    del duration
    if event == _EVENT:
        _counts[str(details.get("fun_name", ""))] += 1
    if event in _PARTS and _open.depth:
        _open.depth -= 1
        if _open.depth == 0:
            _open.wait.cancel()
