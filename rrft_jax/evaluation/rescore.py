"""Scores predictions that exist already, without a model: ours, or the public Reason-RFT code's.

    python -m rrft_jax.evaluation.rescore runs/demo
    python -m rrft_jax.evaluation.rescore results.json --task=TASK --out=rows.jsonl

A run's folder stands for the files of all its evaluations. The command prints 100 x the mean score
of each file and of its parts, with the standard error: by this project's rules, and by the rules of
the public code ("reference"), which its published numbers follow. Below stand the means of the
rewards that the rows have. `--reward=my_rewards.iou` computes a reward anew, or for the first time.
It finds the columns of a row's record under "extra".
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax import json_files, rewards
from rrft_jax.errors import UserError
from rrft_jax.evaluation import predictions
from rrft_jax.evaluation.predictions import MODES, Prediction
from rrft_jax.evaluation.rewarding import reward_rows
from rrft_jax.evaluation.scores import mean, summary
from rrft_jax.evaluation.tables import decimal
from rrft_jax.markdown import aligned
from rrft_jax.prog import prog
from rrft_jax.rewards import Term
from rrft_jax.tasks import find


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.evaluation.rescore"), description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "files", nargs="+", type=pathlib.Path, metavar="FILE", help="a file, or a run's folder"
    )
    parser.add_argument("--task", default="", help="of rows that don't name theirs")
    parser.add_argument(
        "--reward", action="append", default=[], metavar="NAME", help="a reward to compute"
    )
    parser.add_argument("--mode", choices=[*MODES, "both"], default="both", help="whose rules")
    parser.add_argument("--out", type=pathlib.Path, help="writes the rows with their scores here")
    args = parser.parse_args(argv)
    modes = list(MODES) if args.mode == "both" else [args.mode]
    try:
        if args.task:
            find(args.task)
        terms = rewards.read_terms(dict.fromkeys(args.reward, 1.0), "--reward")
        files = [
            file for given in args.files for file in predictions.every_file(given.expanduser())
        ]
        if args.out and len(files) > 1:
            raise UserError(f"--out={args.out}: holds the rows of one FILE, not of {len(files)}")
        for file in files:
            rows = predictions.read(file, args.task)
            scored = _rewarded([row.scored(modes) for row in rows], terms)
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
    samples = len(predictions.by_sample(rows, modes[0]))
    tasks = ", ".join(dict.fromkeys(row.task for row in rows))
    passes = f", {len(rows):,} completions" if len(rows) > samples else ""
    lines = [f"{name}: {tasks}, {samples:,} samples{passes}", ""]
    cells = [["score, %", "samples", *modes]]
    parts = {"all": list(rows)} | predictions.by_part(rows)
    for part, own in parts.items():
        scores = [list(predictions.sample_scores(own, mode).values()) for mode in modes]
        if all(scores):
            entries = list(map(summary, scores))
            cells.append([part, f"{len(scores[0]):,}", *(f"{_percent(e)}" for e in entries)])
    lines += [*aligned(cells), ""] if len(cells) > 1 else []
    found = {part: predictions.sample_rewards(own) for part, own in parts.items()}
    if names := list(found["all"]):
        cells = [["mean reward", *names]]
        for part, own in found.items():
            means = [decimal(mean(list(own[name].values()))) for name in names if name in own]
            cells += [[part, *means]] if len(means) == len(names) else []
        lines += [*aligned(cells), ""]
    return "\n".join(lines)


def _percent(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['accuracy']:.2f} ± {100 * entry['standard_error']:.2f}"


def _rewarded(rows: Sequence[Prediction], terms: Sequence[Term]) -> list[Prediction]:
    """Return the predictions with these rewards computed anew, also in their rows."""
    samples: dict[str, list[Prediction]] = {}
    for row in rows:
        samples.setdefault(row.id, []).append(row)
    found = []
    for passes in samples.values():
        texts = [prediction.completion for prediction in passes]
        tokens = [prediction.row.get("tokens") for prediction in passes]
        lengths = list(map(len, tokens)) if all(isinstance(t, list) for t in tokens) else None
        added = reward_rows(terms, texts, passes[0].example, lengths)
        found += [prediction.rewarded(own) for prediction, own in zip(passes, added)]
    return found


def _write(file: pathlib.Path, rows: Sequence[Prediction]) -> None:
    """Write the rows; the file may be the file that was read."""
    lines = (json.dumps(row.row) + "\n" for row in rows)  # ASCII: texts may be invalid Unicode
    json_files.replace(file, "".join(lines).encode())


if __name__ == "__main__":
    sys.exit(main())
