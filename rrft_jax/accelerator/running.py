"""The check as a whole: each part in a process of its own, with a time limit.

So a crash or a full memory ends one part alone. The JSON file is written anew after every finding:
a check that is killed leaves what it has measured.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rrft_jax import __version__
from rrft_jax.accelerator import summary
from rrft_jax.accelerator.parts import PARTS
from rrft_jax.json_files import read_object, replace

FILE, LOG = "accelerator.json", "accelerator.log"
USUAL = 9 * 60.0  # seconds of the check, which the limits of the parts are meant for
LEAST = 10.0  # seconds; a part with less time left isn't begun


@dataclasses.dataclass
class Outcome:
    """What came of a part.

    Attributes:
      status: "ok"; "no", if a finding doesn't keep its bound; "skipped", "failed", "stopped" at
        its time limit or by a signal, or "not begun".
      why: the reason of the last four, in one line.
      seconds: its time.
      findings: its findings, as `Finding` has them.
    """

    status: str = "not begun"
    why: str = ""
    seconds: float = 0.0
    findings: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def holds(self) -> bool:
        """True if the part has not failed, and no finding misses its bound."""
        return self.status in ("ok", "skipped")


@dataclasses.dataclass
class Check:
    """A run of the check.

    Attributes:
      out: the folder of its files, which exists.
      names: the parts to run, in order.
      seconds: the time that all parts have together; their own limits grow with it.
      say: a function that is called with the table of each part at its end.
    """

    out: pathlib.Path
    names: Sequence[str]
    seconds: float
    say: Callable[[str, Outcome], None]

    def __post_init__(self):
        self.began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._clock = time.monotonic()
        self.outcomes = {name: Outcome(why="the check ended before") for name in self.names}

    @property
    def holds(self) -> bool:
        """True if no part has failed, and no finding misses its bound."""
        return all(outcome.holds for outcome in self.outcomes.values())

    def run(self) -> None:
        """Run the parts.

        Raises:
          KeyboardInterrupt: a signal ended the check; its files are whole.
        """
        with (
            tempfile.TemporaryDirectory(prefix="rrft_jax-compiled-") as compiled,
            (self.out / LOG).open("w") as log,
        ):
            environment = _environment(compiled)
            try:
                for name in self.names:
                    self._run(name, environment, log)
                    self._write()
                    self.say(name, self.outcomes[name])
                    if PARTS[name].needed and self.outcomes[name].status not in ("ok", "no"):
                        self._end(f"without the part {name} no other makes sense")
                        break
            finally:
                self._write()

    def _end(self, why: str) -> None:
        """Say why the other parts aren't begun."""
        for outcome in self.outcomes.values():
            if outcome.status == "not begun":
                outcome.why = why

    def _run(self, name: str, environment: dict[str, str], log: Any) -> None:
        """Run one part, and fill in its outcome."""
        outcome = self.outcomes[name]
        left = self.seconds - (time.monotonic() - self._clock)
        limit = min(PARTS[name].seconds * self.seconds / USUAL, left)
        if limit < LEAST:
            outcome.why = "no time was left: give more by --minutes"
            return
        print(f"== {name}", file=log, flush=True)
        module = PARTS[name].module
        command = [sys.executable, "-m", "rrft_jax.accelerator.parts", module, f"{limit:.0f}"]
        began, late = time.monotonic(), threading.Event()
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True,
            start_new_session=True,  # Ctrl-C must reach only this process
        )  # fmt: skip
        timer = threading.Timer(limit, lambda: (late.set(), _kill(child)))
        timer.start()
        try:
            for line in child.stdout:
                self._read(outcome, line)
                self._write()
            code = child.wait()
        except BaseException:
            outcome.status, outcome.why = "stopped", "a signal ended the check"
            raise
        finally:
            timer.cancel()
            if child.poll() is None:
                _kill(child)
                child.wait()
            outcome.seconds = round(time.monotonic() - began, 1)
        if late.is_set():
            outcome.status, outcome.why = "stopped", f"it took longer than {limit:.0f} s"
        elif outcome.status == "not begun" and code:
            ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
            outcome.status, outcome.why = "failed", f"its process ended {ended}; see {LOG}"
        elif outcome.status == "not begun":
            kept = all(finding["holds"] is not False for finding in outcome.findings)
            outcome.status, outcome.why = ("ok" if kept else "no"), ""

    def _read(self, outcome: Outcome, line: str) -> None:
        """Take in one line of a child; a line is cut if the child was killed."""
        for kind, value in read_object(line.encode()).items():
            if kind == "finding":
                outcome.findings.append(value)
            else:
                outcome.status, outcome.why = kind, value

    def _write(self) -> None:
        """Write the JSON file."""
        content = {
            "rrft_jax": __version__,
            "began": self.began,
            "seconds": round(time.monotonic() - self._clock, 1),
            "holds": self.holds,
            "summary": [dataclasses.asdict(x) for x in summary.findings(self.measured)],
            "parts": {name: dataclasses.asdict(x) for name, x in self.outcomes.items()},
        }
        replace(self.out / FILE, (json.dumps(content, indent=1) + "\n").encode())

    @property
    def measured(self) -> dict[str, dict[str, Any]]:
        """Part -> the name of a finding -> its value."""
        return {
            name: {finding["what"]: finding["value"] for finding in outcome.findings}
            for name, outcome in self.outcomes.items()
        }


def _environment(compiled: str) -> dict[str, str]:
    """Return the environment of the children."""
    environment = {
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
    }
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms:  # a part compares with the CPU
        environment["JAX_PLATFORMS"] = f"{platforms},cpu"
    return environment


def _kill(child: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
