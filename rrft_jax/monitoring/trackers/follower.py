"""The program of a tracker's process: it follows the files of a run, and sends new rows.

It ends when its standard input ends: because the run closes it, or because the run was killed. A
tracker that fails is reported once. The rows stay in the run's files, so a resumed run sends them.
"""

import contextlib
import fcntl
import importlib
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from rrft_jax.monitoring.progress import say
from rrft_jax.monitoring.trackers.files import RunFiles
from rrft_jax.monitoring.trackers.rows import Opening, Scalars, Tracker

SECONDS = 1.0  # between two looks at the files
PATIENCE = 30.0  # seconds for the last rows, once the run has ended
FAILED = 1  # exit code after a failure that was reported


def main() -> NoReturn:
    """Follow the run that a line of JSON on standard input describes."""
    told = json.loads(sys.stdin.readline())
    name, folder = told["name"], pathlib.Path(told["folder"])
    ended = threading.Event()
    threading.Thread(target=_watch, args=(name, ended), daemon=True).start()
    try:
        module = importlib.import_module(f"rrft_jax.monitoring.trackers.{name}")
        with _alone(folder / name):
            tracker = module.Run(Opening(folder, told["id"], told["config"]))
            follow(tracker, RunFiles(folder, told["steps"]), ended)
            tracker.close()
    except BaseException as error:  # a package of a tracker may even raise SystemExit
        lines = str(error).strip().splitlines()
        say(warning(name, ": ".join([type(error).__name__, *lines[:1]])))
        _end(FAILED)
    _end(0)


def follow(tracker: Tracker, files: RunFiles, ended: threading.Event) -> None:
    """Send a tracker the rows that it lacks, until the run has ended and all are sent."""
    newest = dict(tracker.newest())
    last = False
    while not last:
        last = ended.wait(SECONDS)
        for row in files.new():
            if row.step <= newest.get(row.series, -1):
                continue
            if isinstance(row, Scalars):
                tracker.scalars(row)
            else:
                tracker.groups(row)
            newest[row.series] = row.step


def warning(name: str, problem: str) -> str:
    """Return the line about a tracker that has failed."""
    return (
        f"warning: tracker {name}: {problem}; the run goes on without it, and a resumed run sends "
        "what is missing"
    )


def _watch(name: str, ended: threading.Event) -> None:
    """Note the end of the run; end this process if the tracker then takes too long."""
    sys.stdin.read()
    ended.set()
    time.sleep(PATIENCE)
    say(warning(name, f"no answer for {PATIENCE:g} s"))
    _end(FAILED)


def _end(code: int) -> NoReturn:
    """End without the hooks of a package, which may wait."""
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Wait until the process of a killed run has sent its last rows from this folder."""
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some network disks have no locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)
