"""The values of Reason-RFT's public code, defects included, so that published numbers compare.

The values differ from the project's own rewards in these points:
* A correct answer to a solution of 0 gets nothing, `nan` scores NaN, `4.0` isn't `4`.
* A trailing line break breaks the format; further tags don't.
* Quoted object ids and values in double quotes aren't read.
* Steps of a numbered list count once.
* The evaluation of transformations reads an answer only if it stands on one line.

Two things can't be reproduced. The public code matches partly right calls in the order of a hash
set; here the order is that of the text. Results that math-verify finds only after seconds are lost.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from rrft_jax.rewards import guard, worker
from rrft_jax.rewards.format import answer_block
from rrft_jax.rewards.transformation import PARTIAL, credit, distinct

# All are possessive or anchored, so that hostile text is read in linear time. They match the same
# texts as the public code's expressions.
_CALL = re.compile(r"(?<!\w)(\w++)\((\w++),\s*+'?(\w++)'?\)")
_PLAIN = re.compile(r"-?\d{1,9}(\.\d{1,9})?", re.ASCII)
_STEP = re.compile(r"Step \d+:|\A\d+\.|\n[-*]|First,|Second,|Next,|Finally,")


def format_reward(completion: str, example: Any = None) -> float:
    """Give 1 for `<think>` at the start, then `</think>`, `<answer>`, and `</answer>` at the end.

    Anything else may stand between them, tags included.
    """
    del example
    return _runs_through(completion, ("think", "answer"))


def caption_format_reward(completion: str, example: Any = None) -> float:
    """Reward as `format_reward` does, for `<summary>`, `<caption>`, `<think>` and `<answer>`."""
    del example
    return _runs_through(completion, ("summary", "caption", "think", "answer"))


def accuracies(completions: Sequence[str], example: Any) -> list[float]:
    """Give 1 for equal texts; else, only without tags, let math-verify judge the whole text."""
    values = [float(_answer(text) == _answer(example.answer)) for text in completions]
    return _or_verified(values, completions, example.answer)


def math_accuracies(completions: Sequence[str], example: Any) -> list[float]:
    """Reward Python's numbers by their relative error, and other answers as `accuracies` does."""
    solution = _answer(example.answer)
    values = [_nearness(_answer(text), solution) for text in completions]
    return _or_verified(values, completions, example.answer)


def transformation(completion: str, example: Any, worth: Sequence[float]) -> float:
    """Return the credit of the calls, times the share of distinct calls."""
    answers, solutions = _CALL.findall(_answer(completion)), _CALL.findall(example.answer)
    if not answers or not solutions:
        return 0.0
    different = distinct(answers)
    return credit(different, distinct(solutions), worth) * len(different) / len(answers)


def steps_reward(completion: str, example: Any = None) -> float:
    """Reward as the default does, but count a numbered list only if the text begins with it."""
    del example
    return min(1.0, sum(1 for _ in _STEP.finditer(completion)) / 3)


def right_lengthwise(completions: Sequence[str], solution: str) -> list[bool]:
    """Return which completions the length reward counts as right."""
    values = [float(_is_same(_answer(text), _answer(solution))) for text in completions]
    return [value == 1 for value in _or_verified(values, completions, solution)]


def calls_score(completion: str, answer: str) -> float:
    """Return the score of a sequence of calls by the public evaluation."""
    answers = distinct(_CALL.findall(_answer_on_one_line(completion)))
    solutions = distinct(_CALL.findall(answer))
    return credit(answers, solutions, PARTIAL) if answers and solutions else 0.0


def value_score(completion: str, answer: str) -> float:
    """Return the score of a value, a word or a letter by the public evaluation."""
    tagged = answer_block(completion) is not None
    if _answer(completion) == (answer if tagged else answer.strip()):
        return 1.0
    (right,) = agree([_answer(completion) if tagged else completion], answer)
    return float(right)


def agree(answers: Sequence[str], solution: str) -> list[bool]:
    """Return whether math-verify finds the solution's value in each answer; False if it fails.

    It runs behind the guard, which counts answers that take too long or break it.
    """
    found = [False] * len(answers)
    asked = [i for i, text in enumerate(answers) if not _plainly_differ(text, solution)]
    calls = [(answers[i], solution) for i in asked]
    for i, value in zip(asked, guard.call(f"{worker.MATHEMATICS}.agree", calls)):
        found[i] = bool(value)
    return found


def _plainly_differ(answer: str, solution: str) -> bool:
    """Return whether the two differ without parsing: one is empty, or numbers or letters differ.

    math-verify would say the same; for it numbers are equal if they agree in six digits.
    """
    answer, solution = answer.strip(), solution.strip()
    if not answer or not solution:
        return True
    if answer.isalpha() and solution.isalpha() and len(answer) == len(solution) == 1:
        return answer != solution
    if not (_PLAIN.fullmatch(answer) and _PLAIN.fullmatch(solution)):
        return False
    value, wanted = float(answer), float(solution)
    return abs(value - wanted) > 1e-3 * max(1.0, abs(value), abs(wanted))


def _answer(text: str) -> str:
    answer = answer_block(text)
    return text.strip() if answer is None else answer


def _answer_on_one_line(text: str) -> str:
    for line in text.split("\n"):
        if (answer := answer_block(line)) is not None:
            return answer
    return text.strip()


def _runs_through(completion: str, blocks: Sequence[str]) -> float:
    place, end = len(f"<{blocks[0]}>"), len(completion) - len(f"</{blocks[-1]}>")
    if not (completion.startswith(f"<{blocks[0]}>") and completion.endswith(f"</{blocks[-1]}>")):
        return 0.0
    for block, following in zip(blocks, blocks[1:]):
        match = re.compile(rf"</{block}>\s*+<{following}>").search(completion, place, max(end, 0))
        if not match:
            return 0.0
        place = match.end()
    return float(place <= end)


def _nearness(answer: str, solution: str) -> float:
    try:
        value, wanted = float(answer), float(solution)
    except ValueError:
        return float(answer == solution)
    error, size = abs(value - wanted), abs(wanted)
    if error < 0.05 * size:
        return 1.0
    if error > 0.20 * size:
        return 0.0
    try:
        return 0.5 * (math.cos(math.pi * (error - 0.05 * size) / (0.15 * size)) + 1)
    except (ZeroDivisionError, ValueError):  # a solution of 0; infinities
        return 0.0


def _is_same(answer: str, solution: str) -> bool:
    if answer == solution:
        return True
    try:
        return float(answer) == float(solution)
    except ValueError:
        return False


def _or_verified(values: list[float], completions: Sequence[str], solution: str) -> list[float]:
    """Return the values, but let math-verify judge completions with value 0 and without tags."""
    asked = [
        i
        for i, (value, text) in enumerate(zip(values, completions))
        if value == 0 and answer_block(text) is None
    ]
    for i, found in zip(asked, agree([completions[i] for i in asked], solution)):
        values[i] = float(found)
    return values
