"""Rewards for the style of a completion, not its content: steps, length, repetition."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rrft_jax.rewards import accuracy, reference

ENOUGH_STEPS = 3
_STEP = re.compile(
    r"Step \d+:|^\d+\.|\n[-*]|\b(?:First|Second|Next|Finally),", re.ASCII | re.MULTILINE
)
_PIECE = re.compile(r"\w+|[^\w\s]")


def steps_reward(completion: str, example: Any = None) -> float:
    """Give a third per mark of a step, at most 1: `Step 1:`, lists, `First,`, `Next,`, ..."""
    del example
    return min(1.0, sum(1 for _ in _STEP.finditer(completion)) / ENOUGH_STEPS)


def length_rewards(
    completions: Sequence[str],
    example: Any,
    *,
    mode: str = "default",
    step: int | None = None,
    lengths: Sequence[int] | None = None,
    scale: float = 0.05,
    start: int = 800,
) -> list[float]:
    """Reward short right answers most, within a group (Kimi 1.5, arXiv 2501.12599).

    With l = 0.5 - (length - shortest) / (longest - shortest), the reward is `scale` times l for a
    right answer, else `scale` times min(0, l). All rewards are 0 if all lengths are equal, and
    before step `start`.

    Args:
      completions: the completions of one group.
      example: the example that they answer.
      mode: "reference" counts characters.
      step: the training step; None counts as a step past `start`.
      lengths: the tokens of each completion; without them, words and signs count.
      scale: twice the largest reward.
      start: the first step that is rewarded.
    """
    if mode == "reference":
        sizes = list(map(len, completions))
        right = reference.right_lengthwise(completions, example.answer)
    else:
        sizes = _sizes(completions, lengths)
        right = [value == 1 for value in accuracy.rewards(completions, example)]
    shortest, longest = min(sizes, default=0), max(sizes, default=0)
    if shortest == longest or (step is not None and step < start):
        return [0.0] * len(completions)
    gains = [0.5 - (size - shortest) / (longest - shortest) for size in sizes]
    return [scale * (gain if good else min(0.0, gain)) for gain, good in zip(gains, right)]


def repetition_reward(completion: str, example: Any = None, *, size: int = 3) -> float:
    """Return minus the share of the text's word n-grams that repeat an earlier one.

    Args:
      completion: the text.
      example: the example that it answers.
      size: the number of words (and signs) of an n-gram.
    """
    del example
    words = _PIECE.findall(completion)
    total = len(words) - size + 1
    if total < 1:
        return 0.0
    return len(Counter(zip(*(words[i:] for i in range(size))))) / total - 1


def overlong_rewards(
    completions: Sequence[str],
    example: Any = None,
    *,
    lengths: Sequence[int] | None = None,
    limit: int = 512,
    margin: int = 128,
) -> list[float]:
    """Return 0 up to length `limit - margin`, falling to -1 at `limit` (DAPO, arXiv 2503.14476).

    Args:
      completions: the completions of one group.
      example: the example that they answer.
      lengths: the tokens of each completion; without them, words and signs count.
      limit: the length that is too long, usually `sampling.max_new_tokens`.
      margin: the range of lengths below the limit in which the penalty grows.
    """
    del example
    over = [length - (limit - margin) for length in _sizes(completions, lengths)]
    return [-min(max(excess / margin, 0.0), 1.0) for excess in over]


def _sizes(completions: Sequence[str], lengths: Sequence[int] | None) -> list[int]:
    if lengths is not None:
        return list(map(int, lengths))
    return [sum(1 for _ in _PIECE.finditer(text)) for text in completions]
