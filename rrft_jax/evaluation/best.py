"""Which weights of a stage were the best, as far as they were evaluated: read off `results.json`.

A stage that is evaluated on its way has rows "grpo@20", "grpo@40" there, and "grpo" for its end.
"""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def best_step(results: Results, stage: str, last: int, split: str) -> int | None:
    """The step of the stage with the highest accuracy on a split; of several the last.

    Args:
      results: as `results.json` holds them.
      stage: "sft" or "grpo".
      last: the stage's number of steps, which its own row belongs to.
      split: such as "id".

    Returns:
      None before the first evaluation.
    """
    found = {
        step: row[split]["accuracy"]
        for step, row in _evaluated(results, stage, last).items()
        if split in row
    }
    return max(found, key=lambda step: (found[step], step), default=None)


def final_rows(results: Results, best: Mapping[str, int]) -> dict[str, Mapping[str, Any]]:
    """The rows of a run's last table: the ends of its stages, and where it was best on the way.

    Args:
      results: as `results.json` holds them.
      best: stage -> its best step, of the stages whose end was not the best.
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
