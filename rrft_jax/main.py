"""The command line: reads a config and its overrides, runs its stages.

  python -m rrft_jax.main --config=configs/grpo.py:model=tiny --config.seed=1 --workdir=runs/a

A mistake in what was given ends in one line on stderr and exit code 1, before any compilation.
"""

import sys
from collections.abc import Sequence

from rrft_jax.command import parse, quieten
from rrft_jax.errors import UserError
from rrft_jax.monitoring import interrupts


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    quieten()
    interrupts.listen()  # first of all: what the rest imports takes seconds
    try:
        config, workdir = parse(sys.argv[1:] if argv is None else argv)
        from rrft_jax import pipeline

        pipeline.run(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
