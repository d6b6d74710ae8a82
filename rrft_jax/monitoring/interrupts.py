"""Ctrl-C and SIGTERM as a question that a loop asks between two steps, instead of a crash.

Python runs a handler only when its main thread comes back from C++, where it may compile or wait
for other processes for minutes. So a thread is told of each signal too, by the wakeup descriptor.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_noted = 0  # the number of a signal that came
_at_once = ""  # what the process does now, where a first signal ends it
_watching = False


class Interrupted(Exception):
    """Raised by a loop that was asked to stop, once everything is saved."""


def listen() -> None:
    """From now on the first signal is only noted; a second one ends the program at once."""
    global _watching
    if not _watching:
        _watching = True
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    for number in _SIGNALS:
        signal.signal(number, _note)


def requested() -> bool:
    return bool(_noted)


@contextlib.contextmanager
def at_once(doing: str) -> Iterator[None]:
    """Within, a first signal ends the process too, with exit code 128 + its number.

    For times when there's nothing to save. One that came before ends it at the beginning.

    Args:
      doing: for the line that says so, such as "waiting for the other processes".
    """
    global _at_once
    _at_once = doing
    if _noted:
        _end(_noted)
    try:
        yield
    finally:
        _at_once = ""


def _note(number: int, frame) -> None:
    global _noted
    _noted = number
    signal.signal(number, signal.SIG_DFL)


def _watch(reading: int) -> None:
    """Reads the numbers of signals as they come, wherever the main thread is."""
    global _noted
    seen = set()
    while byte := os.read(reading, 1):
        number = byte[0]
        if number in _SIGNALS and (number in seen or _at_once):
            _end(number)
        if number in _SIGNALS:
            seen.add(number)
            _noted = number


def _end(number: int) -> NoReturn:
    name = signal.Signals(number).name
    why = f"{name} while {_at_once}" if _at_once else f"{name} again, before a step could be saved"
    os.write(2, f"stopped: {why}\n".encode())  # no lock: the main thread may print and wait
    os._exit(128 + number)


def _forget() -> None:
    """Has a forked process keep its own signals to itself."""
    if _watching:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)
