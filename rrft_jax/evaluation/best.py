"""The best evaluated step of each stage, from the rows of `results.json`.

A stage with evaluations between its steps has rows "grpo@20", "grpo@40" there, and "grpo" for its
end.
"""

from collections.abc import Mapping
from typing import Any

from rrft_jax.evaluation.rewarding import REWARD

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def measure(entry: Mapping[str, Any], metric: str = "") -> float | None:
    """Return the number by which an evaluated split is ranked; None if it doesn't have it.

    Args:
      entry: the split's entry in `results.json`.
      metric: "accuracy", the name of a reward, or "reward", their weighted sum; "" is the accuracy,
        or the weighted sum for samples without answers.
    """
    values = {name: own["mean"] for name, own in entry.get("rewards", {}).items()}
    if "accuracy" in entry:
        values["accuracy"] = entry["accuracy"]
    return values.get(metric or ("accuracy" if "accuracy" in values else REWARD))


def best_step(results: Results, stage: str, last: int, split: str, metric: str = "") -> int | None:
    """Return the stage's step with the highest measure on a split; the last one of equals.

    Only evaluations of as many samples as the newest one are compared. There are others if a run
    went on with another `eval.samples`.

    Args:
      results: the content of `results.json`.
      stage: "sft" or "grpo".
      last: the stage's number of steps; the row with the stage's own name belongs to it.
      split: the name of a split, such as "id".
      metric: as for `measure`.

    Returns:
      The step, or None before the first evaluation.
    """
    rows = {n: row[split] for n, row in _evaluated(results, stage, last).items() if split in row}
    size = rows[max(rows)]["samples"] if rows else 0
    found = {
        step: value
        for step, entry in rows.items()
        if entry["samples"] == size and (value := measure(entry, metric)) is not None
    }
    return max(found, key=lambda step: (found[step], step), default=None)


def final_rows(results: Results, best: Mapping[str, int]) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a run's last table: the end of each stage, and any better step before it.

    Args:
      results: the content of `results.json`.
      best: stage -> its best step, for the stages whose last step is not their best.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for name, row in results.items():
        if "@" in name or name == "skipped":
            continue
        rows[name] = row
        if name in best:
            rows[f"{name}, best (step {best[name]})"] = results[f"{name}@{best[name]}"]
    return rows


def _evaluated(results: Results, stage: str, last: int) -> dict[int, Mapping[str, Any]]:
    rows = {}
    for name, row in results.items():
        own, _, step = name.partition("@")
        if own == stage:
            rows[int(step) if step else last] = row
    return rows
