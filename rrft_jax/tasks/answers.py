"""`Answers`: the reading of a task's answers, and the score of a completion in an evaluation."""

import dataclasses
from collections.abc import Callable

from rrft_jax.rewards import reference
from rrft_jax.rewards.accuracy import equal
from rrft_jax.rewards.transformation import parse_calls, partial_credit


@dataclasses.dataclass(frozen=True)
class Answers:
    """One form of answers.

    Attributes:
      expected: the form in words, for the message about an answer that doesn't have it.
      readable: whether a text can be the right answer to a sample.
      score: (extracted answer, right answer) -> a number between 0 and 1, by this project's rules.
      reference_score: (completion, right answer) -> the same by the public code of Reason-RFT.
    """

    expected: str
    readable: Callable[[str], bool]
    score: Callable[[str, str], float]
    reference_score: Callable[[str, str], float]


def _equal(extracted: str, answer: str) -> float:
    return float(equal([(extracted, False)], answer)[0])


# A number, a word, or the letter of an option: right or wrong.
VALUES = Answers(
    expected="a text",
    readable=bool,
    score=_equal,
    reference_score=reference.value_score,
)

# A sequence of calls, func(object_id, 'value'), with partial credit.
CALLS = Answers(
    expected="calls, func(object_id, 'value')",
    readable=lambda answer: bool(parse_calls(answer)),
    score=partial_credit,
    reference_score=reference.calls_score,
)
