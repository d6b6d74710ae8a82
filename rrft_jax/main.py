"""The command line of a run: it reads a config and its overrides, and runs the config's stages.

  python -m rrft_jax.main --config=configs/grpo.py:model=tiny --config.seed=1 --workdir=runs/a

The hosts of a TPU slice, of a Slurm step or of a Kubernetes job find each other. Other hosts need
an address and a number:

  python -m rrft_jax.main ... --coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0

`--dry_run` checks the run and prints what it would do; `--print_config` prints its settings.

A mistake in the config or the arguments ends the run with one line on stderr and exit code 1,
before any compilation. After a first signal the run saves its state and exits with 0. A second
signal ends the run at once with 128 + its number (130, 143). So does a first signal while the hosts
connect, because there is nothing to save.
"""

import sys
from collections.abc import Sequence

from rrft_jax import command, origins
from rrft_jax.errors import UserError
from rrft_jax.monitoring import interrupts, progress, say, waiting


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Run the command line of a config that only evaluates; return the exit code."""
    return main(argv, trains=False)


def main(argv: Sequence[str] | None = None, *, trains: bool = True) -> int:
    """Run the command line; return the exit code.

    Args:
      argv: the arguments; by default those of the process.
      trains: whether a config that trains is accepted.
    """
    command.quieten()
    interrupts.listen()  # before the imports below, which take seconds
    try:
        told, argv = command.processes(sys.argv[1:] if argv is None else argv)
        config, workdir, origin_of, branch_from, dry = command.read(argv)
        if config.stages and not trains:
            raise UserError(
                f"this config trains ({', '.join(config.stages)}), and eval only evaluates: give "
                "--config=configs/eval.py with the same choices, or use rrft train"
            )
        with waiting("loading JAX"):
            from rrft_jax.parallel import distributed
            from rrft_jax.training import objectives

        objectives.check(config.grpo)
        meeting = "waiting for the other processes of the run"
        with interrupts.at_once(meeting), waiting(meeting):
            distributed.initialize(**told)
        with waiting("looking for the devices"):
            if not distributed.is_host0():
                progress.silence()
        with waiting("loading the libraries"):
            from rrft_jax import compiled, dry_run, recipe

        for line in (*origins.expansion(config, origin_of), *origins.of_demo(config, origin_of)):
            say(line)
        with distributed.leaving_together():
            if dry:
                dry_run.dry_run(config, workdir, branch_from)
            else:
                compiled.keep_beside(workdir, first=distributed.is_host0())
                recipe.run(config, workdir, branch_from)
                if line := compiled.summary():
                    say(line)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
