"""Lines about silent waits: what the program waits for, once it has waited for two seconds.

with waiting("reading the weights of Qwen2-VL-2B-Instruct"):
    ...  # after 2 s the console says "reading the weights of Qwen2-VL-2B-Instruct ..."

A short wait prints nothing. The line comes from a thread, because the main thread is busy or waits
inside C++.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

from rrft_jax.monitoring.progress import say

SECONDS = 2.0  # a shorter wait is not mentioned
_AGAIN = 60.0  # seconds before the same line may come again
_said: dict[str, float] = {}  # line -> when it was printed last
_lock = threading.Lock()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print `what` if the block takes longer than SECONDS.

    Args:
      what: the action inside the block, such as "restoring step 4 of sft"; "" prints nothing. The
        same text is printed at most once a minute, so a wait that recurs in each step doesn't fill
        the console.
    """
    if not what:
        yield
        return
    wait = begin(what)
    try:
        yield
    finally:
        wait.cancel()


def begin(what: str) -> threading.Timer:
    """Begin a wait that ends with `cancel()` of the result, where no block can surround it."""
    timer = threading.Timer(SECONDS, _speak, [what])
    timer.daemon = True
    timer.start()
    return timer


def _speak(what: str) -> None:
    with _lock:
        now = time.monotonic()
        if now - _said.get(what, -_AGAIN) < _AGAIN:
            return
        _said[what] = now
    say(f"{what} ...")
