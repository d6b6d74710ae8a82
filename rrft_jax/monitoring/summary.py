"""The summary of a step on the console: a few of its metrics, the most telling ones first.

    s/step 4.1  reward 1.5  accuracy 0.52  format 0.98  failed 0  skipped 0  length 43  kl 0.01

`docs/outputs.md` explains the names.
"""

from collections.abc import Mapping
from typing import Any

_COUNTS = {"reward_failures": "failed", "skipped_updates": "skipped"}


class Summary:
    """The summaries of a stage's steps. Counts add up since the stage was begun or resumed."""

    def __init__(self):
        self._totals = dict.fromkeys(_COUNTS, 0)

    def __call__(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return name -> value of a step with these metrics, as `metrics.jsonl` names them."""
        for key in _COUNTS.keys() & metrics.keys():
            self._totals[key] += int(metrics[key])
        counts = {_COUNTS[key]: n for key, n in self._totals.items() if key in metrics}
        found = {"s/step": metrics["seconds_step"]}
        found |= {name: n for name, n in counts.items() if n}  # in front: a line may be cut short
        if "reward" not in metrics:
            found["loss"] = metrics["loss"]
        found |= _rewards(metrics) | counts
        for key, name in (("completion_length", "length"), ("kl", "kl"), ("loss", "loss")):
            if key in metrics:
                found[name] = metrics[key]
        return found


def _rewards(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean of the sum, and of each reward; the sum of a single one is left out."""
    prefix = "reward_"
    names = [
        key.removeprefix(prefix).removesuffix("_std")
        for key in metrics
        if key.startswith(prefix) and key.endswith("_std") and key != "reward_std"
    ]
    last = [name.rpartition(".")[2] for name in names]
    found = {"reward": metrics["reward"]} if "reward" in metrics and len(names) != 1 else {}
    for name, short in zip(names, last):
        found[short if last.count(short) == 1 else name] = metrics[prefix + name]
    return found
