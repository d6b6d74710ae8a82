"""Running of cells, each as a process of its own, one after the other or several side by side."""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rrft_jax.errors import UserError
from rrft_jax.monitoring import interrupts, say
from rrft_jax.study import sharing
from rrft_jax.study.cells import Cell, leader

_POLL_SECONDS = 0.2


class Process(Protocol):
    """A run that has been launched, such as a `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Return the exit code; None while the run goes on."""

    def send_signal(self, number: int) -> None:
        """Send a signal to the run."""


Launch = Callable[[Sequence[str], pathlib.Path | None], Process]


def launch_run(arguments: Sequence[str], log: pathlib.Path | None) -> Process:
    """Launch a run; it writes to `log`, or to the console if that is None.

    It has a session of its own, so that Ctrl-C reaches it once, by way of the study.
    """
    command = [sys.executable, "-m", "rrft_jax.main", *arguments]
    output = log.open("ab") if log else None
    try:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
        )
    finally:
        if output:
            output.close()


def run(
    cells: Sequence[Cell],
    launch: Launch,
    ended: Callable[[Cell], None],
    *,
    jobs: int = 1,
    every: Sequence[Cell] = (),
) -> None:
    """Run cells to their ends. After a signal, let those under way save and stop.

    Args:
      cells: the cells that are not finished, in order. A cell waits for the one whose first stage
        it takes over.
      launch: launches a run.
      ended: is called with each cell that has come to its end.
      jobs: the most runs at a time. Several write to files, `FOLDER.log`.
      every: all cells of the study, finished ones too.

    Raises:
      Interrupted: a signal came.
      UserError: a run ended with an error; the others that were under way have saved and stopped.
    """
    every, waiting = every or cells, list(cells)
    leaders = {cell.name: leader(cell, every) for cell in cells}
    running: dict[str, tuple[Cell, Process]] = {}
    failed = ""
    while running or waiting:
        stop = interrupts.requested() or failed
        while waiting and len(running) < jobs and not stop:
            ready = [c for c in waiting if not (first := leaders[c.name]) or first.finished]
            if not ready:
                break
            cell = ready[0]
            waiting.remove(cell)
            running[cell.name] = cell, _start(cell, leaders[cell.name], every, launch, jobs)
            stop = interrupts.requested()
        if stop:
            waiting = []
            for _, process in running.values():
                process.send_signal(signal.SIGTERM)
            _drain(running, ended)
            break
        for name, (cell, process) in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[name]
            if cell.finished:
                ended(cell)
            elif not interrupts.requested():
                failed = failed or _failure(cell, code, jobs)
        if running:
            time.sleep(_POLL_SECONDS)
    if failed:
        raise UserError(failed)
    if interrupts.requested():
        raise interrupts.Interrupted("the study")


def _start(
    cell: Cell, first: Cell | None, every: Sequence[Cell], launch: Launch, jobs: int
) -> Process:
    arguments = [*cell.arguments, f"--workdir={cell.folder}"]
    arguments += sharing.prepare(cell, first, every)
    say(f"study: {cell.name} {'goes on' if cell.begun else 'begins'}")
    return launch(arguments, _log(cell) if jobs > 1 else None)


def _drain(running: Mapping[str, tuple[Cell, Process]], ended: Callable[[Cell], None]) -> None:
    """Wait until all runs have saved and stopped."""
    for cell, process in running.values():
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
        if cell.finished:
            ended(cell)


def _failure(cell: Cell, code: int, jobs: int) -> str:
    where = str(_log(cell)) if jobs > 1 else "the lines above"
    return (
        f"{cell.name} stopped before its end, with exit code {code}: see {where}; the same command "
        "goes on with the study"
    )


def _log(cell: Cell) -> pathlib.Path:
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    return cell.folder.with_name(f"{cell.folder.name}.log")
