"""Scores predictions that exist already, without a model: ours, or the public Reason-RFT code's.

    python -m rrft_jax.evaluation.rescore runs/demo
    python -m rrft_jax.evaluation.rescore results.json --task=TASK --out=rows.jsonl

A run's folder stands for the files of all its evaluations. The command prints 100 x the mean score
of each file and of its parts, with the standard error: by this project's rules, and by the rules of
the public code ("reference"), which its published numbers follow.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from rrft_jax import json_files
from rrft_jax.errors import UserError
from rrft_jax.evaluation import predictions
from rrft_jax.evaluation.predictions import MODES, Prediction
from rrft_jax.evaluation.scores import summary
from rrft_jax.markdown import aligned
from rrft_jax.prog import prog
from rrft_jax.tasks import TASKS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.evaluation.rescore"), description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "files", nargs="+", type=pathlib.Path, metavar="FILE", help="a file, or a run's folder"
    )
    parser.add_argument("--task", choices=TASKS, default="", help="of rows that don't name theirs")
    parser.add_argument("--mode", choices=[*MODES, "both"], default="both", help="whose rules")
    parser.add_argument("--out", type=pathlib.Path, help="writes the rows with their scores here")
    args = parser.parse_args(argv)
    modes = list(MODES) if args.mode == "both" else [args.mode]
    try:
        files = [
            file for given in args.files for file in predictions.every_file(given.expanduser())
        ]
        if args.out and len(files) > 1:
            raise UserError(f"--out={args.out}: holds the rows of one FILE, not of {len(files)}")
        for file in files:
            scored = [row.scored(modes) for row in predictions.read(file, args.task)]
            print(report(str(file), scored, modes))
        if args.out:
            _write(args.out.expanduser(), scored)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def report(name: str, rows: Sequence[Prediction], modes: Sequence[str]) -> str:
    """Return the printed text about a file: one line, and a Markdown table of its scores.

    Args:
      name: the name of the file.
      rows: its predictions, with scores.
      modes: the modes to show, one column each.
    """
    samples = len(predictions.sample_scores(rows, modes[0]))
    tasks = ", ".join(dict.fromkeys(row.task for row in rows))
    passes = f", {len(rows):,} completions" if len(rows) > samples else ""
    cells = [["score, %", "samples", *modes]]
    for part, own in ({"all": list(rows)} | predictions.by_part(rows)).items():
        entries = [summary(list(predictions.sample_scores(own, mode).values())) for mode in modes]
        shown = [f"{100 * e['accuracy']:.2f} ± {100 * e['standard_error']:.2f}" for e in entries]
        cells.append([part, f"{entries[0]['samples']:,}", *shown])
    return "\n".join([f"{name}: {tasks}, {samples:,} samples{passes}", "", *aligned(cells), ""])


def _write(file: pathlib.Path, rows: Sequence[Prediction]) -> None:
    """Write the rows; the file may be the file that was read."""
    lines = (json.dumps(row.row) + "\n" for row in rows)  # ASCII: texts may be invalid Unicode
    json_files.replace(file, "".join(lines).encode())


if __name__ == "__main__":
    sys.exit(main())
