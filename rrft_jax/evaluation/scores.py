"""Scores of completions, and statistics of a split's scores with their uncertainty."""

import math
from collections.abc import Sequence
from typing import Any

from rrft_jax import tasks
from rrft_jax.errors import UserError
from rrft_jax.rewards import MODES
from rrft_jax.rewards.format import extract_answer


def score(task: str, completion: str, answer: str, *, mode: str = "default") -> float:
    """Score a completion between 0 and 1, by the form of the task's answers.

    The score accepts more than the accuracy reward: the value may stand among other words, with
    tags or without. `mode="reference"` scores as Reason-RFT's public evaluation does.

    Raises:
      UserError: the mode or the task does not exist.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    answers = tasks.find(task).answers
    if mode == "reference":
        return answers.reference_score(completion, answer)
    return answers.score(extract_answer(completion)[0], extract_answer(answer)[0])


def summary(scores: Sequence[float]) -> dict[str, Any]:
    """Return a split's entry in `results.json`; accuracy and standard error are fractions of 1."""
    mean, error = _mean_and_error(scores)
    return {"accuracy": mean, "samples": len(scores), "standard_error": error}


def mean(values: Sequence[float]) -> dict[str, float]:
    """Return the mean of a reward with its standard error, as `results.json` has them."""
    value, error = _mean_and_error(values)
    return {"mean": value, "standard_error": error}


def paired_gain(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return the mean gain on the same samples in the same order, and its standard error.

    Samples that are easy or hard for both cancel out. So the error is smaller than that of the
    difference of two independent accuracies.
    """
    return _mean_and_error([b - a for a, b in zip(before, after, strict=True)])


TREND_VALUES = 8  # the fewest: with one value at an end, its spread would be unknown


def trend(values: Sequence[float]) -> tuple[float, float, float, int]:
    """Compare the end of a series, one value per step, with its beginning.

    Returns:
      (mean of the first steps, mean of the last steps, standard error of their difference from the
      spread between steps, number of steps at each end: a quarter of all).

    Raises:
      ValueError: fewer than TREND_VALUES.
    """
    if len(values) < TREND_VALUES:
        raise ValueError(f"{len(values)} values; a trend takes {TREND_VALUES}")
    steps = len(values) // 4
    (first, error), (last, other) = map(_mean_and_error, (values[:steps], values[-steps:]))
    return first, last, math.hypot(error, other), steps


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error; for scores of 0 and 1 the latter is sqrt(p (1 - p) / n)."""
    if not values:
        raise ValueError("no scores")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return mean, math.sqrt(variance / len(values))
