"""`Answers`: the reading of a task's answers, and the score of a completion in an evaluation."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from rrft_jax.rewards import answers, reference
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
      structured: whether a record's answer may be a list or an object, which is read as JSON.
    """

    expected: str
    readable: Callable[[str], bool]
    score: Callable[[str, str], float]
    reference_score: Callable[[str, str], float]
    structured: bool = False


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


def _checked(expected: str, readable: Callable[[str], bool]) -> Answers:
    """Return the form of values of one kind; the comparison is that of all values."""
    return dataclasses.replace(VALUES, expected=expected, readable=readable)


def _number(text: str) -> Any:
    return getattr(answers.read(text).value, "number", None)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# Any text, or no answer at all: a reward of the user's own may know what is right.
ANY = dataclasses.replace(_checked("a text, or no answer", lambda answer: True), structured=True)

# The values of `custom.answers`.
KINDS = {
    "any": ANY,
    "text": VALUES,
    "number": _checked("a number", lambda answer: _number(answer) is not None),
    "letter": _checked("the letter of an option", lambda answer: bool(answers.read(answer).option)),
    "word": _checked("one word", lambda answer: len(answer.split()) == 1),
    "json": _checked("JSON", _is_json),
}
