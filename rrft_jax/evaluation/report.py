"""The report at the end of a run: its table, the gain of each stage, the trend of rewards.

    python -m rrft_jax.evaluation.report runs/demo

prints the report of a run again. If the run has not ended, it reports the evaluations so far.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax

from rrft_jax.errors import UserError
from rrft_jax.evaluation import best, paper, scores, tables
from rrft_jax.evaluation.results import Results, shown_name
from rrft_jax.monitoring import MetricsWriter
from rrft_jax.prog import prog
from rrft_jax.settings import Config
from rrft_jax.workdir import read_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    jax.config.update("jax_platforms", "cpu")  # a run may be using the accelerators
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.evaluation.report"),
        description="Prints the results of a run again, or those that it has so far.",
    )
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="the folder of a run")
    run = parser.parse_args(argv).run.expanduser()
    try:
        config = read_config(run)
        metrics = MetricsWriter(run / "metrics.jsonl", writes=False)
        steps = {stage: max(metrics.values(stage, "step"), default=0) for stage in config.stages}
        results = Results(run, steps, config.best_split, config.best_metric)
        if not any(results.rows.values()):
            raise UserError(f"{run}: no results yet; they come with the run's first evaluation")
        results.deciding = results.deciding or next(iter(next(filter(None, results.rows.values()))))
        _print(config, results, metrics.values("grpo", "reward"))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def report(
    config: Config,
    results: Results,
    rewards: Sequence[float],
    workdir: pathlib.Path,
) -> None:
    """Print the results, and write the table to `table.md`.

    Args:
      config: the run's config.
      results: the results of all its evaluations.
      rewards: the mean reward of each step of GRPO.
      workdir: the run's folder.
    """
    text = table(config, results, results.better_steps())
    (workdir / "table.md").write_text(text + "\n", encoding="utf-8")
    _print(config, results, rewards)


def table(config: Config, results: Results, better: Mapping[str, int]) -> str:
    """Return the results in Markdown, with the paper's results if it has any."""
    rows = best.final_rows(results.rows, better)
    rows = {shown_name(config, name): row for name, row in rows.items()}
    splits = list(dict.fromkeys(split for row in rows.values() for split in row))
    reported = {}
    if config.data.path or config.data.source:  # the paper has no results on drawn pictures
        reported = paper.cells(config.model.name, config.task, splits)
    parts = [tables.results_table(rows, reported), tables.parts_table(rows)]
    return "\n\n".join(filter(None, parts))


def gains(results: Results, stages: Sequence[str]) -> list[str]:
    """Return the gain of each stage over the one before, on the same samples, a line per split."""
    lines = []
    for before, after in itertools.pairwise(("start", *stages)):
        for split in results.rows.get(after, {}):
            if split not in results.rows.get(before, {}):
                continue
            old, new = (results.scores(name, split) for name in (before, after))
            if paired := _paired(old, new):
                gain, error, on = paired
                lines.append(
                    f"{before} -> {after}, {split}: {100 * gain:+.1f} ± {100 * error:.1f} "
                    f"points ({on})"
                )
            theirs, ours = (results.rewards(name, split) for name in (before, after))
            for name in tables.reward_columns(results.rows[after][split]):
                if paired := _paired(theirs.get(name, {}), ours.get(name, {})):
                    gain, error, on = paired
                    lines.append(
                        f"{before} -> {after}, {split}, {name}: {gain:+.3f} ± {error:.3f} ({on})"
                    )
    return lines


def _paired(old: Mapping[str, float], new: Mapping[str, float]) -> tuple[float, float, str] | None:
    """Return the gain on the samples of both, its standard error, and what it is on.

    The samples differ if the run went on with another `eval.samples`.
    """
    common = [sample for sample in old if sample in new]
    if not common:
        return None
    gain, error = scores.paired_gain([old[i] for i in common], [new[i] for i in common])
    alike = old.keys() == new.keys()
    return gain, error, "paired" if alike else f"paired, on the {len(common):,} samples of both"


def trend(rewards: Sequence[float]) -> list[str]:
    """Return a line that says how rewards changed during GRPO; no line if steps are too few."""
    if len(rewards) < scores.TREND_VALUES:
        return []
    first, last, error, steps = scores.trend(rewards)
    return [
        f"grpo, mean reward of its own samples: {first:.3f} in the first {steps} steps, "
        f"{last:.3f} in the last: {last - first:+.3f} ± {error:.3f}"
    ]


def _print(config: Config, results: Results, rewards: Sequence[float]) -> None:
    print(table(config, results, results.better_steps()), flush=True)
    for line in (*gains(results, config.stages), *trend(rewards)):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
