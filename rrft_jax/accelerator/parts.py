"""The parts of the check, and the child process that runs one of them.

    python -m rrft_jax.accelerator.parts rrft_jax.accelerator.kernels 120

A child prints a JSON object a line: a finding, or the reason why there is none. Everything else
that it prints, or that a library prints in it, goes to stderr.
"""

import dataclasses
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

from rrft_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
      module: the dotted path of a module with a function `check`, which yields findings.
      seconds: the time limit, generous for one H200 with its compilation.
      needed: whether no other part makes sense if this one fails.
    """

    module: str
    seconds: float
    needed: bool = False


_HERE = "rrft_jax.accelerator"
PARTS = {  # in their order: first what makes figures trustworthy, then the figures
    "device": Part(f"{_HERE}.device", 60, needed=True),
    "kernels": Part(f"{_HERE}.kernels", 120),
    "score": Part(f"{_HERE}.precision", 120),
    "sampling": Part(f"{_HERE}.sampling", 150),
    "update": Part(f"{_HERE}.updating", 150),
    "torch": Part(f"{_HERE}.torch_step", 150),
    "greedy": Part(f"{_HERE}.greedy", 90),
    "grpo": Part(f"{_HERE}.learning", 120),
}


GRACE = 10  # seconds after the limit, at which a child ends even if nobody ends it


def run(module: str, seconds: int) -> int:
    """Run a part's module in this process; print its findings; return the exit code.

    The check ends a part at its limit. If the check itself is gone, an alarm does.
    """
    signal.alarm(seconds + GRACE)
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print to stdout too

    def say(**content: Any) -> None:
        print(json.dumps(content), file=lines, flush=True)

    try:
        for finding in importlib.import_module(module).check():
            say(finding=dataclasses.asdict(finding))
    except Exception as error:
        from rrft_jax.accelerator.findings import Skip  # it may be what can't be imported

        if not isinstance(error, UserError):
            traceback.print_exc()
        say(**{"skipped" if isinstance(error, Skip) else "failed": reason(error)})
        return 0 if isinstance(error, Skip) else 1
    finally:
        sys.stdout.flush()
    return 0


_KNOWN = {  # a text in an error of jax -> what it means
    "RESOURCE_EXHAUSTED": "the device's memory is full; end other programs on it",
    "CUDA_ERROR_OUT_OF_MEMORY": "the device's memory is full; end other programs on it",
    "already in use": "another process uses the device; end that process",
    "Unable to initialize backend": "jax can't start the device; is its driver installed?",
}


def reason(error: Exception) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed"
    for sign, meaning in _KNOWN.items():
        if sign in text:
            return f"{meaning} ({text:.200})"
    return f"{type(error).__name__}: {text:.300}"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], int(sys.argv[2])))
