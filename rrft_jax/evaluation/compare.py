"""Sets runs side by side, on the samples that all of them answered.

    python -m rrft_jax.evaluation.compare runs/demo/evaluations/sft runs/demo --show=3
    python -m rrft_jax.evaluation.compare ours/predictions-id.jsonl theirs.json

A run is given as its folder, the folder of one of its stages, or a file of predictions. Samples are
matched by their id. A difference compares the same samples, so samples that are easy or hard for
both runs cancel out. Its interval is narrower than the intervals of the two accuracies suggest.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence

from rrft_jax.errors import UserError
from rrft_jax.evaluation import predictions
from rrft_jax.evaluation.predictions import Prediction
from rrft_jax.evaluation.scores import paired_gain, summary
from rrft_jax.evaluation.tables import percent
from rrft_jax.markdown import aligned
from rrft_jax.prog import prog

_WIDTH = 1.96  # half of a 95 % interval, in standard errors
_PREFIX = "predictions-"

Passes = Mapping[str, Sequence[Prediction]]  # sample -> its completions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.evaluation.compare"), description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="samples of each kind")
    args = parser.parse_args(argv)
    try:
        if len(args.runs) < 2:
            raise UserError(f"{args.runs[0]}: one run; expected two or more to compare")
        if len(set(args.runs)) < len(args.runs):
            raise UserError(f"{args.runs[0]}: a run is given twice; expected different ones")
        print(*_report([run.expanduser() for run in args.runs], args.show), sep="\n")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def table(runs: Mapping[str, Passes]) -> list[list[str]]:
    """Return the rows of one split's table: the first run, then every other run against it.

    Args:
      runs: name -> the completions of every sample; all runs have the same samples.

    Returns:
      Rows of [name, number of samples, accuracy, difference to the first run, number of samples
      that only the first run solves, number of samples that only this run solves].
    """
    (first, theirs), *others = runs.items()
    start = _scores(theirs)
    rows = [[first, f"{len(start):,}", percent(summary(start)), "", "", ""]]
    for name, passes in others:
        scores = _scores(passes)
        gain, error = paired_gain(start, scores)
        lost, won = differing(theirs, passes)
        low, high = (100 * (gain + side * _WIDTH * error) for side in (-1, 1))
        difference = f"{100 * gain:+.1f} [{low:+.1f}, {high:+.1f}]"
        row = [f"{len(scores):,}", percent(summary(scores)), difference]
        rows.append([name, *row, f"{len(lost):,}", f"{len(won):,}"])
    return rows


def differing(first: Passes, other: Passes) -> tuple[list[str], list[str]]:
    """Return the samples that only the first run solves, and those that only the other solves.

    A sample is solved if at least half of its completions are fully right.
    """
    solved = [{name for name, passes in run.items() if _solves(passes)} for run in (first, other)]
    return [n for n in first if n in solved[0] - solved[1]], [
        n for n in first if n in solved[1] - solved[0]
    ]


def _report(paths: Sequence[pathlib.Path], show: int) -> list[str]:
    """Return the tables of all splits that the first run shares with another, with samples."""
    cells, notes, samples = [], [], []
    for split, files in _splits(paths).items():
        read = {run: predictions.by_sample(predictions.read(file)) for run, file in files.items()}
        runs = _matched(split, read)
        cells += [[split, *row] for row in table(runs)]
        for run, passes in runs.items():
            if left := len(read[run]) - len(passes):
                notes.append(f"{split}: {left:,} samples of {run} are not in all of the runs.")
        (first, theirs), *others = runs.items()
        for name, passes in others if show > 0 else ():
            for only, ids in zip((first, name), differing(theirs, passes)):
                samples += [f"\n{split}: {len(ids):,} samples that only {only} solves"]
                samples += [_sample(theirs[i][0]) for i in ids[:show]]
    head = ["split", "run", "samples", "accuracy, %", "difference, points [95 %]"]
    head += ["only the first solves", "only this solves"]
    notes.insert(0, "± standard error. Differences are to the first run, paired by sample.")
    return [*aligned([head, *cells], left=2), "", *notes, *samples]


def _splits(runs: Sequence[pathlib.Path]) -> dict[str, dict[str, pathlib.Path]]:
    """Return split -> run -> file, for the splits that the first run shares with another.

    Files that are given by their own paths are one split, whatever their names.
    """
    if all(run.is_file() for run in runs):
        return {_split(runs[0]): {str(run): run for run in runs}}
    found = {str(run): _files(run) for run in runs}
    first = str(runs[0])
    splits = {}
    for split in found[first]:
        files = {run: files[split] for run, files in found.items() if split in files}
        if len(files) > 1:
            splits[split] = files
    if not splits:
        has = "; ".join(f"{run} has {', '.join(files)}" for run, files in found.items())
        raise UserError(f"no split that {first} and another run have: {has}")
    return splits


def _files(run: pathlib.Path) -> dict[str, pathlib.Path]:
    files = [run] if run.is_file() else sorted(run.glob(f"{_PREFIX}*.jsonl"))
    if not files:
        raise UserError(
            f"{run}: no predictions; expected a run's folder with {_PREFIX}SPLIT.jsonl, or a file"
        )
    return {_split(file): file for file in files}


def _split(file: pathlib.Path) -> str:
    return file.stem.removeprefix(_PREFIX)


def _matched(split: str, runs: Mapping[str, Passes]) -> dict[str, Passes]:
    """Return the samples that all runs answered, in the order of the first run.

    Raises:
      UserError: there are none, or two runs have different right answers to a sample, so that they
        are not of the same data.
    """
    (first, theirs), *others = runs.items()
    common = [name for name in theirs if all(name in run for _, run in others)]
    if not common:
        raise UserError(f"{split}: no sample's id is in all of {', '.join(runs)}")
    for name, run in others:
        for sample in common:
            right, other = theirs[sample][0].answer, run[sample][0].answer
            if right != other:
                raise UserError(
                    f"{split}: sample {sample}: the answer is {right!r:.60} in {first} and "
                    f"{other!r:.60} in {name}; expected predictions for the same data"
                )
    return {name: {sample: run[sample] for sample in common} for name, run in runs.items()}


def _scores(run: Passes) -> list[float]:
    """Return every sample's mean score over its passes."""
    return [math.fsum(p.scores["default"] for p in own) / len(own) for own in run.values()]


def _solves(passes: Sequence[Prediction]) -> bool:
    return 2 * sum(p.scores["default"] == 1 for p in passes) >= len(passes)


def _sample(prediction: Prediction) -> str:
    problem = " ".join(prediction.problem.split())
    return f"- {prediction.id}: {problem} ({prediction.answer})"


if __name__ == "__main__":
    sys.exit(main())
