"""Sets runs side by side, on the samples that all of them answered.

    python -m rrft_jax.evaluation.compare runs/demo/evaluations/sft runs/demo --show=3
    python -m rrft_jax.evaluation.compare ours/predictions-id.jsonl theirs.json

A run is given as its folder, the folder of one of its stages, or a file of predictions. Samples are
matched by their id. A difference compares the same samples, so samples that are easy or hard for
both runs cancel out. Its interval is narrower than the intervals of the two accuracies suggest.

A run that was asked in other words than the first one is marked by `*`, and both wordings are
printed. Then a difference is that of the models and of the words together. With `--show=N`, the
completions of the first N samples that only one of two runs solves stand side by side. Samples
without an answer are compared by the rewards that both evaluations were asked for.
"""

import argparse
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence

from rrft_jax.console import side_by_side, visible
from rrft_jax.errors import UserError
from rrft_jax.evaluation import predictions
from rrft_jax.evaluation.predictions import Prediction
from rrft_jax.evaluation.rewarding import REWARD
from rrft_jax.evaluation.scores import mean, paired_gain, summary
from rrft_jax.evaluation.tables import decimal, percent
from rrft_jax.markdown import aligned
from rrft_jax.prog import prog

_WIDTH = 1.96  # half of a 95 % interval, in standard errors
_SHOWN = 120  # characters of a prompt's words

Passes = Mapping[str, Sequence[Prediction]]  # sample -> its completions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.evaluation.compare"), description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="print what the runs said to the first N samples that only one of two solves",
    )
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
    scored = {
        name: [s for s in map(_score, run.values()) if s is not None] for name, run in runs.items()
    }
    (first, theirs), *others = runs.items()
    start = scored[first]
    if not start:
        return []
    rows = [[first, f"{len(start):,}", percent(summary(start)), "", "", ""]]
    for name, passes in others:
        scores = scored[name]
        lost, won = differing(theirs, passes)
        row = [f"{len(scores):,}", percent(summary(scores)), _gain(start, scores, 100, ".1f")]
        rows.append([name, *row, f"{len(lost):,}", f"{len(won):,}"])
    return rows


def rewards_table(runs: Mapping[str, Passes]) -> list[list[str]]:
    """Return the rows of one split's table of rewards, for those that all of the runs have.

    Returns:
      Rows of [name, reward, number of samples, mean, difference to the first run].
    """
    found = {
        name: predictions.sample_rewards([p for passes in run.values() for p in passes])
        for name, run in runs.items()
    }
    (first, theirs), *others = found.items()
    samples, rows = len(runs[first]), []
    for reward in _shown_rewards(found):
        start = list(theirs[reward].values())
        rows.append([first, reward, f"{samples:,}", decimal(mean(start)), ""])
        for name, own in others:
            values = list(own[reward].values())
            gain = _gain(start, values, 1, ".3f")
            rows.append([name, reward, f"{samples:,}", decimal(mean(values)), gain])
    return rows


def _shown_rewards(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Return the rewards that all runs have; their weighted sum only beside several others."""
    shared = [
        name for name in next(iter(found.values())) if all(name in own for own in found.values())
    ]
    return [name for name in shared if name != REWARD or len(shared) > 2]


def _gain(before: Sequence[float], after: Sequence[float], scale: int, form: str) -> str:
    """Return the mean gain on the same samples with its 95 % interval."""
    gain, error = paired_gain(before, after)
    value, low, high = (scale * (gain + side * _WIDTH * error) for side in (0, -1, 1))
    return f"{value:+{form}} [{low:+{form}}, {high:+{form}}]"


def differing(first: Passes, other: Passes) -> tuple[list[str], list[str]]:
    """Return the samples that only the first run solves, and those that only the other solves.

    A sample is solved if at least half of its completions are fully right. Of samples without an
    answer, those with the higher reward count as solved.
    """
    both = {name: (worth(first[name]), worth(other[name])) for name in first}
    return [n for n, (a, b) in both.items() if a > b], [n for n, (a, b) in both.items() if a < b]


def _report(paths: Sequence[pathlib.Path], show: int) -> list[str]:
    """Return the tables of all splits that the first run shares with another, with samples."""
    cells, rewards, notes, samples = [], [], [], []
    for split, files in _splits(paths).items():
        read = {run: predictions.by_sample(predictions.read(file)) for run, file in files.items()}
        runs = _matched(split, read)
        words = _wordings(runs)
        for found, rows in ((cells, table(runs)), (rewards, rewards_table(runs))):
            found += [[split, name + " *" * (name in words), *row] for name, *row in rows]
        notes += [f"{split}: {line}" for line in _other_words(runs, words)]
        for run, passes in runs.items():
            if left := len(read[run]) - len(passes):
                notes.append(f"{split}: {left:,} samples of {run} are not in all of the runs.")
        (first, theirs), *others = runs.items()
        for name, passes in others if show > 0 else ():
            for only, ids in zip((first, name), differing(theirs, passes)):
                samples += [f"\n{split}: {len(ids):,} samples that only {only} solves"]
                for i in ids[:show]:
                    samples += _sample({first: theirs[i], name: passes[i]})
    head = ["split", "run", "samples", "accuracy, %", "difference, points [95 %]"]
    head += ["only the first solves", "only this solves"]
    notes.insert(0, "± standard error. Differences are to the first run, paired by sample.")
    lines = [*aligned([head, *cells], left=2), ""] if cells else []
    if rewards:
        head = ["split", "run", "reward", "samples", "mean", "difference [95 %]"]
        lines += [*aligned([head, *rewards], left=3), ""]
    return [*lines, *notes, *samples]


def _splits(runs: Sequence[pathlib.Path]) -> dict[str, dict[str, pathlib.Path]]:
    """Return split -> run -> file, for the splits that the first run shares with another.

    Files that are given by their own paths are one split, whatever their names.
    """
    if all(run.is_file() for run in runs):
        return {predictions.split(runs[0]): {str(run): run for run in runs}}
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
    return {predictions.split(file): file for file in predictions.files(run)}


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


def _score(passes: Sequence[Prediction]) -> float | None:
    """Return a sample's mean score over its passes; None if it has no answer."""
    if "default" not in passes[0].scores:
        return None
    return math.fsum(p.scores["default"] for p in passes) / len(passes)


def worth(passes: Sequence[Prediction]) -> float:
    """Return 1 for a solved sample and 0 for another one; without an answer, its mean reward."""
    if _score(passes) is not None:
        return float(_solves(passes))
    return math.fsum(p.rewards.get(REWARD, 0.0) for p in passes) / len(passes)


def _solves(passes: Sequence[Prediction]) -> bool:
    return 2 * sum(p.scores.get("default") == 1 for p in passes) >= len(passes)


def _sample(runs: Passes) -> list[str]:
    """Return the lines of a sample: its question, and a completion of each run side by side."""
    one = next(iter(runs.values()))[0]
    problem = visible(" ".join(one.problem.split()))
    width = min(shutil.get_terminal_size((100, 24)).columns, 160) - 2
    said = {f"{run}{_pass(passes)}": _told(passes).completion for run, passes in runs.items()}
    columns = [f"  {line}".rstrip() for line in side_by_side(said, width)]
    return [f"\n- {visible(one.id)}: {problem} ({visible(one.answer)})", *columns]


def _told(passes: Sequence[Prediction]) -> Prediction:
    """Return the first completion that stands for all: a right one if the run solves the sample."""
    solves = _solves(passes)
    return next((p for p in passes if (p.scores.get("default") == 1) == solves), passes[0])


def _pass(passes: Sequence[Prediction]) -> str:
    return f", pass {_told(passes).row.get('pass', 0)}" if len(passes) > 1 else ""


def _wordings(runs: Mapping[str, Passes]) -> dict[str, str]:
    """Return run -> the first sample that it was asked in other words than the first run.

    Runs that did not record their prompts are left out.
    """
    (_, theirs), *others = runs.items()
    found = {}
    for name, passes in others:
        for sample, own in passes.items():
            prompts = [_prompt(theirs[sample][0]), _prompt(own[0])]
            if all(prompts) and prompts[0] != prompts[1]:
                found[name] = sample
                break
    return found


def _prompt(prediction: Prediction) -> str:
    """Return the prompt as the model saw it; "" if the file doesn't say."""
    prompt = prediction.row.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _other_words(runs: Mapping[str, Passes], words: Mapping[str, str]) -> list[str]:
    """Return the notes about the words of the prompts."""
    (first, theirs), *others = runs.items()
    lines = []
    for name, sample in words.items():
        prompts = _prompt(theirs[sample][0]), _prompt(runs[name][sample][0])
        here, there = _differing_part(*prompts)
        lines.append(
            f"* {name} was asked in other words, so the difference is not that of the models "
            f"alone. Sample {visible(sample)}: {first} reads {here!r}, {name} reads {there!r}."
        )
    silent = [run for run, passes in runs.items() if not _prompt(next(iter(passes.values()))[0])]
    if silent:
        lines.append(f"prompts are not recorded by {', '.join(silent)}, so they are not compared.")
    return lines


def _differing_part(one: str, other: str) -> tuple[str, str]:
    """Return the parts of two texts between their common beginning and their common end."""
    start = len(os.path.commonprefix([one, other]))
    one, other = one[start:], other[start:]
    end = len(os.path.commonprefix([one[::-1], other[::-1]]))
    return tuple(_short(text[: len(text) - end]) for text in (one, other))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


if __name__ == "__main__":
    sys.exit(main())
