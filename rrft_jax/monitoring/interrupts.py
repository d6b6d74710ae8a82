"""Ctrl-C and SIGTERM as a question that a loop asks between two steps, instead of a crash."""

import signal

_requested = False


class Interrupted(Exception):
    """Raised by a loop that was asked to stop, once everything is saved."""


def listen() -> None:
    """From now on the first signal is only noted; a second one ends the program at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _note)


def requested() -> bool:
    return _requested


def _note(number: int, frame) -> None:
    global _requested
    _requested = True
    signal.signal(number, signal.SIG_DFL)
