"""How often XLA compiled, so that a shape that changes from step to step shows in the numbers.

Not imported with the package: this module imports JAX, which reads its environment once.
"""

import collections

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_counts: collections.Counter[str] = collections.Counter()
_listening = False


def listen() -> None:
    """From now on compilations are counted; a second call changes nothing."""
    global _listening
    if not _listening:
        jax.monitoring.register_event_duration_secs_listener(_note)
        _listening = True


def total(program: str = "") -> int:
    """Compilations in this process since `listen`, of programs with `program` in their name."""
    return sum(count for name, count in _counts.items() if program in name)


def _note(event: str, duration: float, **details) -> None:
    del duration
    if event == _EVENT:
        _counts[str(details.get("fun_name", ""))] += 1
