"""The command line: reads a config and its overrides, runs its stages.

  python -m rrft_jax.main --config=configs/grpo.py:model=tiny --config.seed=1 --workdir=runs/a

The hosts of a TPU slice, of a Slurm step or of a Kubernetes job find each other; others are told:

  python -m rrft_jax.main ... --coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0

A mistake in what was given ends in one line on stderr and exit code 1, before any compilation. A
signal saves and ends with 0. While the hosts meet there's nothing to save: it ends at once, with
128 + its number (130, 143); and so does a second signal at any time.
"""

import sys
from collections.abc import Sequence

from rrft_jax.command import parse, processes, quieten
from rrft_jax.errors import UserError
from rrft_jax.monitoring import interrupts, progress


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    quieten()
    interrupts.listen()  # first of all: what the rest imports takes seconds
    try:
        told, argv = processes(sys.argv[1:] if argv is None else argv)
        config, workdir = parse(argv)
        from rrft_jax.parallel import distributed
        from rrft_jax.training import objectives

        objectives.check(config.grpo)
        with interrupts.at_once("waiting for the other processes of the run"):
            distributed.initialize(**told)
        if not distributed.is_host0():
            progress.silence()
        from rrft_jax import recipe

        with distributed.leaving_together():
            recipe.run(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
