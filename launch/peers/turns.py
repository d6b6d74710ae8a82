"""Turns of a measured program: it waits for its turn, runs one step, and tells the time it took.

Every program that is measured imports this file, whatever its Python has installed.
"""

import json
import os
import pathlib
import sys
import time
from typing import Any


class Turns:
    """The measured program's end of the pipe to `compare.py`.

    A line on the standard input starts a step. Each answer is one line of JSON on what was the
    standard output. Whatever else the program prints goes to the standard error.
    """

    def __init__(self):
        """Take over the standard output."""
        self.answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self.began = 0.0

    def ready(self, *packages: str) -> None:
        """Tell that the program is ready, with the versions of packages."""
        from importlib.metadata import version

        self._tell(versions={package: version(package) for package in packages})

    def wait(self) -> bool:
        """Wait for the next turn, and start its clock. Return False if there is none."""
        more = bool(sys.stdin.readline())
        self.began = time.perf_counter()
        return more

    def done(self, **counts: int) -> None:
        """Tell the seconds of the turn, what it has counted, and the peak memory so far."""
        seconds = time.perf_counter() - self.began
        self._tell(seconds=seconds, counts=counts, peak_memory=_peak_memory())

    def _tell(self, **values: Any) -> None:
        self.answers.write(json.dumps(values) + "\n")


def _peak_memory(process: str = "self") -> int:
    """Return the most bytes that a process has held, with those of the processes it started.

    `getrusage` knows its parent's too.
    """
    folder, kilobytes = pathlib.Path("/proc") / process, 0
    for line in _read(folder / "status").splitlines():
        if line.startswith("VmHWM:"):
            kilobytes = int(line.split()[1])
    children = [child for file in folder.glob("task/*/children") for child in _read(file).split()]
    return 1024 * kilobytes + sum(map(_peak_memory, children))


def _read(file: pathlib.Path) -> str:
    """Return the text of a file, or "" if its process or thread has ended."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
