"""The processes that trackers live in, as the run sees them: it starts them, and ends them.

A package of a tracker has threads, hooks and processes of its own. It may fail, hang or crash at
any moment, even when the program ends. In a process of its own it can do the run no harm.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence

from rrft_jax import json_files
from rrft_jax.monitoring.progress import say
from rrft_jax.monitoring.trackers import follower
from rrft_jax.monitoring.waits import waiting

_GRACE_SECONDS = 5.0  # a process ends itself at the end of its patience; then it is killed


class Trackers:
    """The trackers of a run, from now until `close`."""

    def __init__(
        self,
        names: Sequence[str],
        workdir: pathlib.Path,
        config: Mapping[str, object],
        steps: Mapping[str, int],
    ):
        """Let some trackers follow the files of a run; do not wait for any of them.

        Args:
          names: the trackers; none in a process that must not write, because another one does.
          workdir: the folder of the run, which exists.
          config: the config of the run, as plain values.
          steps: the number of steps of each stage, in order.
        """
        self._processes: dict[str, subprocess.Popen] = {}
        for name in names:
            told = {
                "name": name,
                "folder": str(workdir),
                "id": _id(workdir),
                "config": config,
                "steps": steps,
            }
            self._processes[name] = _start(json.dumps(told))

    def close(self) -> None:
        """Let the trackers send the last rows; end those that take too long."""
        for process in self._processes.values():
            process.stdin.close()
        for name, process in self._processes.items():
            try:
                with waiting(f"{name}: sending the last steps"):
                    code = process.wait(follower.PATIENCE + _GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
            if code not in (0, follower.FAILED):
                say(follower.warning(name, f"its process ended with exit code {code}"))


def _start(told: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {follower.__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        start_new_session=True,  # Ctrl-C must reach only the run
    )
    with contextlib.suppress(BrokenPipeError):  # the process could not even start
        process.stdin.write(told + "\n")
        process.stdin.flush()
    return process


def _id(workdir: pathlib.Path) -> str:
    """Return the id of the run in its trackers, which its folder keeps."""
    file = workdir / "trackers.json"
    known = json_files.read_object(file.read_bytes()) if file.exists() else {}
    if "id" not in known:
        known["id"] = uuid.uuid4().hex[:8]
        json_files.replace(file, json.dumps(known).encode())
    return known["id"]
