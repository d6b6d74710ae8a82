"""Ctrl-C and SIGTERM as a flag that a loop reads between two steps, instead of a crash.

Python runs a signal handler only when its main thread returns from C++. There the main thread may
compile, or wait for other processes, for minutes. So a second thread learns of each signal too,
through the wakeup descriptor.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_noted = 0  # the number of the signal that came; 0: none
_at_once = ""  # the present action, if a first signal ends the process now; "": it does not
_watching = False


class Interrupted(Exception):
    """The end of a loop that was asked to stop, raised once everything is saved."""


def listen() -> None:
    """From now on, only note the first signal; let a second one end the program at once."""
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
    """Say whether a signal has asked the run to stop."""
    return bool(_noted)


@contextlib.contextmanager
def at_once(doing: str) -> Iterator[None]:
    """Let a first signal end the process within the block, with exit code 128 + its number.

    Use this while there is nothing to save. A signal that came before ends the process at the
    beginning of the block.

    Args:
      doing: the action inside the block, for the message: "waiting for the other processes".
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
    """Read the numbers of signals as they come, whatever the main thread does."""
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
    os.write(2, f"stopped: {why}\n".encode())  # `print` could wait for the main thread's lock
    os._exit(128 + number)


def _forget() -> None:
    """Stop a forked process from reporting its signals to the parent."""
    if _watching:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)
