"""Rewards for right answers: equal by `answers`, as sets of calls, or by math-verify.

The evaluation of a split uses the same comparisons, so they are public here.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rrft_jax.rewards import answers, guard, structured, worker
from rrft_jax.rewards.format import extract_answer
from rrft_jax.rewards.transformation import are_calls, parse_calls

# `math_rewards` gives 1 up to the first relative error and 0 from the second on. Exact fractions,
# because the values are exact too.
_NEAR, _FAR = Fraction(1, 20), Fraction(1, 5)


def rewards(completions: Sequence[str], example: Any) -> list[float]:
    """Give 1 to each completion whose answer is the example's, else 0.

    Inside the tags there must be the answer and nothing else. Without tags the text behind the
    thought is the answer, or the whole completion, and only then an answer is searched in prose.
    The comparison is the same. Sequences of calls are equal if they are equal as sets. The solution
    may have tags too.
    """
    solution = extract_answer(example.answer)[0]
    if are_calls(solution):
        calls = set(parse_calls(solution))
        return [float(set(parse_calls(extract_answer(text)[0])) == calls) for text in completions]
    given = [extract_answer(text) for text in completions]
    return list(map(float, equal(given, solution)))


def math_rewards(completions: Sequence[str], example: Any) -> list[float]:
    """Reward as `rewards` does, but give a part of the reward to a number that is nearly right.

    The reward is 1 up to a relative error of 5 %, 0 from 20 % on, and half a period of a cosine
    between them. If the solution is 0 there is no relative error: 0 is right, all else is wrong.
    """
    solution = answers.read(extract_answer(example.answer)[0])
    if solution.value is None or not solution.value.number:
        return rewards(completions, example)
    read = [answers.read(extract_answer(text)[0]) for text in completions]
    numbers = [answers.comparable(answer, solution) for answer in read]
    others = [text for text, is_number in zip(completions, numbers) if not is_number]
    compared = iter(rewards(others, example))
    return [
        max(_nearness(x.number, y.number) for x, y in answers.pairs(answer, solution))
        if is_number
        else next(compared)
        for answer, is_number in zip(read, numbers)
    ]


def choice_reward(completion: str, example: Any) -> float:
    """Give 1 for the solution's option, else 0. `B`, `(B)`, `B.`, `B)` and `B: 12` are equal."""
    option = answers.read(extract_answer(completion)[0]).option
    solution = answers.read(extract_answer(example.answer)[0]).option
    return float(option is not None and option == solution)


def equal(given: Sequence[tuple[str, bool]], solution: str) -> list[bool]:
    """Return whether each answer is the solution: as JSON, by `answers.same`, or by math-verify.

    math-verify runs behind the guard, which counts answers that take too long or break it.

    Args:
      given: (text, True if it must be the answer and nothing else); otherwise an answer is searched
        in the text.
      solution: the right answer, without tags.
    """
    wanted, data = answers.read(solution), structured.read(solution)
    right: list[bool | None] = []
    unsure: dict[int, tuple[str, str]] = {}
    for place, (text, exact) in enumerate(given):
        if data is not None and structured.read(text) == data:
            right.append(True)
            continue
        answer = answers.read(text)
        right.append(answers.same(answer, wanted))
        if not (exact or right[-1]) and answers.is_prose(answer):
            if found := answers.found_in(text):
                answer = answers.read(found)
                right[-1] = answers.same(answer, wanted)
        if right[-1] is None:
            unsure[place] = (answer.text, wanted.text)
    verdicts = guard.call(f"{worker.MATHEMATICS}.same", list(unsure.values())) if unsure else []
    for place, value in zip(unsure, verdicts):
        right[place] = bool(value)
    return [bool(value) for value in right]


def _nearness(value: Fraction, solution: Fraction) -> float:
    error = abs(value - solution) / abs(solution)
    if not _NEAR < error < _FAR:
        return float(error <= _NEAR)
    return (math.cos(math.pi * (error - _NEAR) / (_FAR - _NEAR)) + 1) / 2
