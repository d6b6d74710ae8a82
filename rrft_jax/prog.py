"""The name of a command in its help."""

import sys


def prog(module: str) -> str:
    """Return "rrft NAME" if the command `rrft` runs the module, else "python -m MODULE"."""
    return sys.argv[0] if sys.argv[0].startswith("rrft ") else f"python -m {module}"
