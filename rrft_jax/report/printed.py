"""The printed report: the table of a run, the gain of each stage, the trend of its rewards."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

from rrft_jax.evaluation import best, paper, scores, tables
from rrft_jax.evaluation.results import Results, shown_name
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
    print_results(config, results, rewards)


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
            if found := paired(old, new):
                gain, error, on = found
                lines.append(
                    f"{before} -> {after}, {split}: {100 * gain:+.1f} ± {100 * error:.1f} "
                    f"points ({on})"
                )
            theirs, ours = (results.rewards(name, split) for name in (before, after))
            for name in tables.reward_columns(results.rows[after][split]):
                if found := paired(theirs.get(name, {}), ours.get(name, {})):
                    gain, error, on = found
                    lines.append(
                        f"{before} -> {after}, {split}, {name}: {gain:+.3f} ± {error:.3f} ({on})"
                    )
    return lines


def paired(old: Mapping[str, float], new: Mapping[str, float]) -> tuple[float, float, str] | None:
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


def print_results(config: Config, results: Results, rewards: Sequence[float]) -> None:
    """Print the table, the gains and the trend; see `report`."""
    if any(row for name, row in results.rows.items() if name != "skipped"):
        print(table(config, results, results.better_steps()), flush=True)
    for line in (*gains(results, config.stages), *trend(rewards)):
        print(line)
