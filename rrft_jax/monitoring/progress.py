"""The console: on a terminal a line that changes, in a log a line from time to time."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0
_COLUMNS = 100  # of a line
_LEFT = len("10:00:00 left  ")  # columns of the time left on a terminal
_silent = False


def silence() -> None:
    """Print nothing from now on: another process of the run prints for all."""
    global _silent
    _silent = True


class Progress:
    """The progress of a stage from step `start` to `total`; a resumed stage starts above 0.

    with Progress("sft", total=100) as progress:
        progress.update(1, {"loss": 2.3})
    """

    def __init__(self, stage: str, total: int, start: int = 0, stream: TextIO | None = None):
        self._stage = stage
        self._total = total
        self._start = start
        self._stream = stream or sys.stderr
        self._began = self._said = time.monotonic()
        self._bar = None
        self._silent = _silent and stream is None
        if self._stream.isatty() and not self._silent:
            self._bar = tqdm(
                desc=f"{stage} {start}/{total}",
                bar_format="{remaining} left  {desc}",  # the values need the room of a bar
                total=total,
                initial=start,
                file=self._stream,
                dynamic_ncols=True,
            )

    def update(self, step: int, values: Mapping[str, Any] | None = None) -> None:
        """Show that `step` steps are done, and the values (numbers or text) beside them.

        The line has at most 100 columns, and no more than the terminal. The last values are left
        out if there is no room for them.
        """
        if self._silent:
            return
        begin = [f"{self._stage} {step}/{self._total}"]
        shown = [f"{name} {_short(value)}" for name, value in (values or {}).items()]
        if self._bar is not None:
            columns = min(self._bar.format_dict["ncols"] or _COLUMNS, _COLUMNS)
            self._bar.set_description_str(_fitted(begin, shown, columns - _LEFT), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        first, last = step == self._start + 1, step >= self._total
        # The first line tells the user that compilation is over.
        if not (first or last or now - self._said >= _SECONDS_BETWEEN_LINES):
            return
        self._said = now
        if not (first or last):
            left = (now - self._began) / (step - self._start) * (self._total - step)
            begin.append(f"{tqdm.format_interval(left)} left")
        print(_fitted(begin, shown, _COLUMNS), file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, above the one that changes if there is one."""
    if _silent and stream is None:
        return
    tqdm.write(text, file=stream or sys.stderr)
    (stream or sys.stderr).flush()


def _fitted(begin: list[str], values: list[str], columns: int) -> str:
    """Return a line of the beginning and of as many values as fit into the columns."""
    line = "  ".join(begin)
    for value in values:
        if len(line) + 2 + len(value) > columns:
            break
        line += f"  {value}"
    return line


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):.3g}"
