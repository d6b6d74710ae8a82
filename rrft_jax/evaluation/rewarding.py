"""Rewards of an evaluation's completions, by the same functions as in training."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rrft_jax import rewards
from rrft_jax.rewards import Term

REWARD = "reward"  # the weighted sum of a completion's rewards, in rows and in results


def reward_rows(
    terms: Sequence[Term], texts: Sequence[str], example: Any, lengths: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Return what the rewards add to the rows of one sample's completions.

    Args:
      terms: the rewards, with weights and options; without any, nothing is added.
      texts: the completions of the sample.
      example: the sample.
      lengths: the tokens of each completion.

    Returns:
      {"rewards": {name: value, REWARD: their weighted sum}} for each completion, and
      "reward_failures": {name: reason} for one that a reward failed on, which is 0 by this reward.
    """
    rows: list[dict[str, Any]] = [{} for _ in texts]
    for term in terms:
        given = {"lengths": lengths, **term.options}
        values, failures = rewards.scores(term.name, texts, example, **given)
        for row, text, value in zip(rows, texts, values):
            own = row.setdefault("rewards", {REWARD: 0.0})
            own[term.name] = value
            own[REWARD] += term.weight * value
            for failure in failures if value == 0 else ():
                if text.startswith(failure.text):  # a failure keeps the beginning of its text
                    row.setdefault("reward_failures", {})[term.name] = failure.reason
    for row in rows:
        if row:  # the sum is the last one
            row["rewards"][REWARD] = row["rewards"].pop(REWARD)
    return rows


def count_failures(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return reward -> the number of rows that it failed on, for the rewards that failed."""
    counts: collections.Counter[str] = collections.Counter()
    for row in rows:
        counts.update(list(row.get("reward_failures") or ()))
    return dict(counts)
