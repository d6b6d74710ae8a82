"""The command that runs a study, and shows its outcome.

    python -m rrft_jax.study --config=configs/study.py --out=studies/counting --dry_run
    python -m rrft_jax.study --config=configs/study.py --out=studies/counting --jobs=2
    python -m rrft_jax.study --out=studies/counting --report_only

The same command goes on with a study that was stopped: finished cells are skipped, and a cell that
was stopped resumes. `--config.KEY=VALUE` counts for all cells. `--report_only` computes the tables
and figures again from the files of the finished cells.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence

from rrft_jax import command
from rrft_jax.errors import UserError
from rrft_jax.monitoring import interrupts, say, waiting
from rrft_jax.prog import prog
from rrft_jax.study import cells as study_cells
from rrft_jax.study.cells import Cell, Choice

_CONFIG = "configs/study.py"


def main(argv: Sequence[str] | None = None, launch: Callable | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
      argv: the arguments; by default those of the process.
      launch: launches a run, as `running.launch_run` does, which is the default.
    """
    command.quieten()
    interrupts.listen()
    try:
        args, cells = read(sys.argv[1:] if argv is None else argv)
        with waiting("loading the libraries"):
            import jax

            from rrft_jax.study import show

        jax.config.update("jax_platforms", "cpu")  # the accelerators are for the runs
        if args.report_only:
            show.report(args.out)
        elif args.dry_run:
            show.plan(cells)
        else:
            run(cells, args, launch)
    except interrupts.Interrupted:
        say("study: stopped; the same command goes on with it")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read(argv: Sequence[str]) -> tuple[argparse.Namespace, list[Cell]]:
    """Read a command line; return its arguments and the cells, none for `--report_only`.

    Raises:
      UserError: it has a mistake.
    """
    parser = command.Parser(
        prog=prog("rrft_jax.study"),
        description="Trains by several paradigms on the same samples, and compares them.",
        epilog="--config.KEY=VALUE overrides a field of the config in every cell.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        default=_CONFIG,
        metavar="FILE[:NAME=CHOICE,...]",
        help="a config of a study, and its argument; default: %(default)s",
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder of the study")
    parser.add_argument("--paradigms", type=_list(str), default=(), help="such as ans_sft,cot_sft")
    parser.add_argument("--samples", type=_list(int), default=(), help="such as 400,1600")
    parser.add_argument("--seeds", type=_list(int), default=(), help="such as 0,1")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; default: 1")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the cells and what they cost; then end"
    )
    parser.add_argument(
        "--report_only", action="store_true", help="write tables and figures again; then end"
    )
    args, overrides = parser.parse_known_args(argv)
    args.out = args.out.expanduser()
    if args.jobs < 1:
        raise UserError(f"--jobs={args.jobs}: expected 1 or more")
    if args.report_only:
        if overrides:
            raise UserError(f"{overrides[0]}: no effect: --report_only reads what the cells kept")
        return args, []
    choice = Choice(args.paradigms, args.samples, args.seeds)
    return args, study_cells.read(args.config, overrides, args.out, choice)


def run(cells: Sequence[Cell], args: argparse.Namespace, launch: Callable | None) -> None:
    """Run all cells that are not finished, and write the report after each one.

    Raises:
      Interrupted: a signal came.
      UserError: a cell has a mistake, or its folder holds another run.
    """
    from rrft_jax.prepare import weights_of
    from rrft_jax.study import running, show
    from rrft_jax.study.cost import Costs, keep
    from rrft_jax.workdir import agreed

    costs = Costs()
    with waiting("measuring the samples of all cells"):
        for cell in cells:
            costs.of(cell)  # before the first run, because mistakes in the data show here
    weights = weights_of(cells[0].config.model)
    left = [
        cell
        for cell in cells
        if agreed(cell.config, cell.folder, weights) is not None or not cell.finished
    ]
    say(f"study: {len(cells)} cells, {len(cells) - len(left)} of them finished")
    args.out.mkdir(parents=True, exist_ok=True)

    def ended(cell: Cell) -> None:
        keep(costs, cell)
        show.report(args.out, told=False)

    launch = launch or running.launch_run
    running.run(left, launch, ended, jobs=args.jobs, every=cells)
    show.report(args.out)


def _list(kind: Callable[[str], str | int]) -> Callable[[str], tuple]:
    """Return a reader of comma-separated values."""

    def values(text: str) -> tuple:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())

    values.__name__ = f"list of {kind.__name__}"  # the parser names it in errors
    return values


if __name__ == "__main__":
    sys.exit(main())
