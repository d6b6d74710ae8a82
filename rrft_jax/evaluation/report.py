"""The report at the end of a run: its table, the gain of each stage, the trend of rewards."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

from rrft_jax.evaluation import best, paper, scores, tables
from rrft_jax.evaluation.results import Results
from rrft_jax.settings import Config


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
    print(text, flush=True)
    for line in (*gains(results, config.stages), *trend(rewards)):
        print(line)


def table(config: Config, results: Results, better: Mapping[str, int]) -> str:
    """Return the results in Markdown, with the paper's results if it has any."""
    rows = best.final_rows(results.rows, better)
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
            old, new = (results.scores(name, split) for name in (before, after))
            if old.keys() == new.keys():
                gain, error = scores.paired_gain(list(old.values()), [new[i] for i in old])
                lines.append(
                    f"{before} -> {after}, {split}: {100 * gain:+.1f} ± {100 * error:.1f} "
                    "points (paired)"
                )
    return lines


def trend(rewards: Sequence[float]) -> list[str]:
    """Return a line that says how rewards changed during GRPO; no line if steps are too few."""
    if len(rewards) < scores.TREND_VALUES:
        return []
    first, last, error, steps = scores.trend(rewards)
    return [
        f"grpo, mean reward of its own samples: {first:.3f} in the first {steps} steps, "
        f"{last:.3f} in the last: {last - first:+.3f} ± {error:.3f}"
    ]
