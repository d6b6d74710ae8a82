"""Verifiable rewards: pure functions of text, found by name. Nothing here knows of JAX.

    score("accuracy", completions, example) -> [1.0, 0.0, ...]

A reward is a function of one completion's text and the example that it answers (anything with
`answer` and `task`). Text from a model is hostile: a reward never raises because of it.
"""

from collections.abc import Sequence
from typing import Any

from rrft_jax.errors import UserError
from rrft_jax.rewards import accuracy, format, transformation

_REWARDS = {
    "accuracy": accuracy.reward,
    "math_accuracy": accuracy.math_reward,
    "transformation_full": transformation.full_reward,
    "format": format.reward,
}

# What a task is rewarded for, name -> weight in the sum: as the public scripts do.
DEFAULTS = {
    "visual_counting": {"accuracy": 1.0, "format": 1.0},
    "structure_perception": {"math_accuracy": 1.0, "format": 1.0},
    "spatial_transformation": {"transformation_full": 1.0, "format": 1.0},
}


def names() -> tuple[str, ...]:
    return tuple(_REWARDS)


def score(name: str, completions: Sequence[str], example: Any) -> list[float]:
    """The named reward of every completion of one example's group.

    Raises:
      UserError: there's no reward of that name.
    """
    if name not in _REWARDS:
        raise UserError(f"reward {name!r}: expected one of {', '.join(_REWARDS)}")
    reward = _REWARDS[name]
    return [reward(completion, example) for completion in completions]
