"""The command that prints the results of runs again, and writes a page about them.

    python -m rrft_jax.report runs/demo
    python -m rrft_jax.report runs/demo runs/branch --out=both.html

If a run has not ended, it reports the evaluations so far.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax

from rrft_jax.errors import UserError
from rrft_jax.monitoring import say
from rrft_jax.prog import prog
from rrft_jax.report import page
from rrft_jax.report.printed import print_results
from rrft_jax.report.run import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    jax.config.update("jax_platforms", "cpu")  # a run may be using the accelerators
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.report"),
        description="Prints the results of runs, or those so far, and writes a page about them.",
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FILE.html",
        help=f"the page; default: {page.NAME} in the first run's folder",
    )
    args = parser.parse_args(argv)
    folders = [folder.expanduser() for folder in args.runs]
    out = (args.out or folders[0] / page.NAME).expanduser()
    try:
        if len(set(folders)) < len(folders):
            raise UserError(f"{folders[0]}: a run is given twice; expected different ones")
        runs = [Run.read(folder) for folder in folders]
        for run in runs:
            if len(runs) > 1:
                print(f"{run.folder}:")
            print_results(run.config, run.results, run.rewards)
        page.write(runs, out)
        say(f"page: {out}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
