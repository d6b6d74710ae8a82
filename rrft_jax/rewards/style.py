"""How a completion is written, whatever it says: in steps, at length, over and over."""

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
    """Marks of steps in the text, 1 from three on: `Step 1:`, lists, `First,`, `Next,`, ..."""
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
    """Short right answers are worth most, within a group (Kimi 1.5, arXiv 2501.12599).

    With l = 0.5 - (length - shortest) / (longest - shortest): l where the answer is right, else
    min(0, l); times `scale`. All are 0 where all lengths are equal, and before step `start`.

    Args:
      completions: of one group.
      example: what they answer.
      mode: "reference" counts characters.
      step: of the training; None: past the start.
      lengths: tokens of each; without them, words and signs count.
      scale: the largest reward is half of it.
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
    """Minus the share of the text's n-grams of words that were said before; 0 if none was.

    Args:
      completion: the text.
      example: what it answers.
      size: words (and signs) of an n-gram.
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
    """0 up to `limit - margin`, from there down to -1 at `limit` (DAPO, arXiv 2503.14476).

    Args:
      completions: of one group.
      example: what they answer.
      lengths: tokens of each; without them, words and signs count.
      limit: where a completion is too long; `sampling.max_new_tokens`, as a rule.
      margin: in front of the limit, where the penalty grows.
    """
    del example
    over = [length - (limit - margin) for length in _sizes(completions, lengths)]
    return [-min(max(excess / margin, 0.0), 1.0) for excess in over]


def _sizes(completions: Sequence[str], lengths: Sequence[int] | None) -> list[int]:
    if lengths is not None:
        return list(map(int, lengths))
    return [sum(1 for _ in _PIECE.finditer(text)) for text in completions]
