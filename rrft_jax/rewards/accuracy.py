"""Is the answer right? Equal as text, as a number, as a set of calls, or as mathematics.

The evaluation of a split scores with the same comparisons, so they're public here.
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rrft_jax.rewards import guard, worker
from rrft_jax.rewards.format import extract_answer
from rrft_jax.rewards.transformation import are_calls, parse_calls

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2}|/\d+)?", re.ASCII | re.IGNORECASE)
_PLAIN = re.compile(r"-?\d{1,9}(\.\d{1,9})?", re.ASCII)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))", re.ASCII)
_LONGEST_NUMBER = 40

# B, b, (B), B., B), B: 12; more than the letter only behind a sign that ends it.
_CHOICE = re.compile(r"\(?\s*([A-Z])\s*(?:\)|[.:](?!\w)|$)|([a-z])$|\(([a-z])\)$")

# Relative errors that `math_rewards` takes for right and for wrong; exact, as the numbers are.
_NEAR, _FAR = Fraction(1, 20), Fraction(1, 5)


def rewards(completions: Sequence[str], example: Any) -> list[float]:
    """1 for each completion whose answer is the example's, else 0.

    Without tags the whole completion is the answer, and only then does math-verify look for one
    in it: inside the tags there's to be the answer and nothing else. Sequences of calls are equal
    as sets. A solution may stand inside tags, too.
    """
    solution = extract_answer(example.answer)[0]
    if are_calls(solution):
        calls = set(parse_calls(solution))
        return [float(set(parse_calls(extract_answer(text)[0])) == calls) for text in completions]
    answers = [extract_answer(text) for text in completions]
    right = [equal(answer, solution) for answer, _ in answers]
    unsure = [i for i, (_, tagged) in enumerate(answers) if not (right[i] or tagged)]
    for i, found in zip(unsure, agree([answers[i][0] for i in unsure], solution)):
        right[i] = found
    return list(map(float, right))


def math_rewards(completions: Sequence[str], example: Any) -> list[float]:
    """As `rewards`, and between two numbers a near miss counts in part.

    1 up to a relative error of 5 %, 0 from 20 % on, half a period of a cosine between them. What is
    relative to a solution of 0 has no limit: 0 itself is right, everything else is wrong.
    """
    solution = _number(extract_answer(example.answer)[0])
    values = [_number(extract_answer(text)[0]) if solution else None for text in completions]
    others = [text for text, value in zip(completions, values) if value is None]
    compared = iter(rewards(others, example))
    return [next(compared) if v is None else _nearness(v, solution) for v in values]


def choice_reward(completion: str, example: Any) -> float:
    """1 if the answer is the solution's option, else 0: `B`, `(B)`, `B.`, `B)`, `B: 12` are one."""
    letter = _letter(extract_answer(completion)[0])
    return float(letter is not None and letter == _letter(extract_answer(example.answer)[0]))


def equal(answer: str, solution: str) -> bool:
    """Equal as text, or as numbers: 4.0 is 4, 1,000 is 1000, 1/2 is 0.5."""
    if answer.strip() == solution.strip():
        return True
    value = _number(answer)
    return value is not None and value == _number(solution)


def agree(answers: Sequence[str], solution: str, *, swapped: bool = False) -> list[bool]:
    """Whether math-verify finds the solution's value in each answer; no where it can't.

    It runs behind the guard: what takes too long or breaks it is counted there. `swapped` compares
    the other way round, as the public code does.
    """
    found = [False] * len(answers)
    asked = [i for i, text in enumerate(answers) if not _plainly_differ(text, solution)]
    calls = [(answers[i], solution, swapped) for i in asked]
    for i, value in zip(asked, guard.call(f"{worker.MATHEMATICS}.agree", calls)):
        found[i] = bool(value)
    return found


def _plainly_differ(answer: str, solution: str) -> bool:
    """Whether there's nothing to parse: a text is empty, or both are numbers or letters apart.

    What it says is what math-verify would, to which numbers are equal up to six digits.
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


def _nearness(value: Fraction, solution: Fraction) -> float:
    error = abs(value - solution) / abs(solution)
    if not _NEAR < error < _FAR:
        return float(error <= _NEAR)
    return (math.cos(math.pi * (error - _NEAR) / (_FAR - _NEAR)) + 1) / 2


def _number(text: str) -> Fraction | None:
    """An exact value, so that nothing is equal by rounding; None if it isn't a plain number."""
    text = text.strip()
    if len(text) > _LONGEST_NUMBER:
        return None
    text = _THOUSANDS.sub("", text)
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):  # 1.5/2, 1/0
        return None


def _letter(text: str) -> str | None:
    match = _CHOICE.match(text)
    return next(filter(None, match.groups())).upper() if match else None
