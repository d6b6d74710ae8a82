"""A count of XLA's compilations, which reveals a shape that changes from step to step.

The package does not import this module, because it imports JAX, which reads its environment once.
"""

import collections

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_counts: collections.Counter[str] = collections.Counter()
_listening = False


def listen() -> None:
    """Count compilations from now on; a second call changes nothing."""
    global _listening
    if not _listening:
        jax.monitoring.register_event_duration_secs_listener(_note)
        _listening = True


def total(program: str = "") -> int:
    """Return the number of compilations in this process since `listen`.

    Args:
      program: a part of the programs' names; "" counts all programs.
    """
    return sum(count for name, count in _counts.items() if program in name)


def _note(event: str, duration: float, **details) -> None:
    del duration
    if event == _EVENT:
        _counts[str(details.get("fun_name", ""))] += 1
