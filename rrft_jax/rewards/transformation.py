"""Answers that are sequences of calls, `change_color(3, 'red')`: reading, and partial credit."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rrft_jax.rewards.format import extract_answer

# Possessive, so that hostile text is read in linear time.
_CALL = re.compile(r"\b([A-Za-z_]\w*+)\s*+\(([^()]*+)\)")
_BETWEEN = re.compile(r"[\s,;.]*+")


class Call(NamedTuple):
    """One step of an answer, in lower case, without quotes and outer spaces."""

    function: str
    object: str
    value: str


# The parts that two calls may share, in the order of matching.
_SHARED: tuple[Callable[[Sequence[str]], Any], ...] = (
    lambda call: tuple(call),
    lambda call: (call[0], call[1]),
    lambda call: (call[0], call[2]),
    lambda call: call[0],
)
# The credit of each of these matches.
PARTIAL = (1.0, 0.5, 0.5, 0.25)
FULL = (1.0, 0.0, 0.0, 0.0)
PENALTY = (1.0, -0.25, -0.25, -0.5)


def parse_calls(text: str) -> list[Call]:
    """Return every call with two arguments, in order, on any number of lines, in any quotes."""
    calls = []
    for function, arguments in _CALL.findall(text):
        values = [value.strip().strip("'\"`").strip().lower() for value in arguments.split(",")]
        if len(values) == 2 and all(values):
            calls.append(Call(function.lower(), *values))
    return calls


def are_calls(text: str) -> bool:
    """Return whether a text is nothing but a sequence of calls."""
    return bool(parse_calls(text)) and bool(_BETWEEN.fullmatch(_CALL.sub("", text)))


def reward(completion: str, example: Any, worth: Sequence[float] = PARTIAL) -> float:
    """Return the share of the calls that are right; partly right calls count in part.

    It is the `credit` of the calls, times the share of distinct calls among the completion's calls.
    The order of the calls doesn't matter.
    """
    calls = parse_calls(extract_answer(completion)[0])
    # Sorted, so that the result depends on nothing but the two sets.
    answers, solutions = sorted(set(calls)), sorted(set(parse_calls(example.answer)))
    if not answers or not solutions:
        return 0.0
    return credit(answers, solutions, worth) * len(answers) / len(calls)


def full_reward(completion: str, example: Any) -> float:
    """Reward as `reward` does, but count only calls that are right in every detail."""
    return reward(completion, example, FULL)


def penalty_reward(completion: str, example: Any) -> float:
    """Reward as `reward` does, but subtract for a call that is right only in part."""
    return reward(completion, example, PENALTY)


def partial_credit(answer: str, solution: str) -> float:
    """Return the share of the calls that are right, between 0 and 1, with partial credit."""
    answers, solutions = (sorted(set(parse_calls(text))) for text in (answer, solution))
    return credit(answers, solutions, PARTIAL) if answers and solutions else 0.0


def credit(
    answers: Sequence[Sequence[str]], solutions: Sequence[Sequence[str]], worth: Sequence[float]
) -> float:
    """Return the credit of an answer's calls, compared with the calls of the solution.

    A call that matches in full counts `worth[0]`, by function and object `worth[1]`, by function
    and value `worth[2]`, by the function alone `worth[3]`. Calls are matched in this order, each
    call once. The sum is divided by the number of calls of the side that has more.

    Args:
      answers: the answer's distinct calls (function, object, value); if several calls could be
        matched, the first is.
      solutions: the solution's distinct calls.
      worth: one of PARTIAL, FULL, PENALTY.
    """
    total, size = 0.0, max(len(answers), len(solutions))
    for value, key in zip(worth, _SHARED):
        free: dict[Any, list[int]] = {}
        for place, call in enumerate(solutions):
            free.setdefault(key(call), []).append(place)
        matched, left = set(), []
        for call in answers:
            if places := free.get(key(call)):
                matched.add(places.pop(0))
                total += value
            else:
                left.append(call)
        answers = left
        solutions = [call for place, call in enumerate(solutions) if place not in matched]
    return total / size


def distinct(calls: Iterable[Any]) -> list[Any]:
    """Remove repetitions, and keep the order of the first appearances."""
    return list(dict.fromkeys(calls))
