"""Answers that are sequences of calls, `change_color(3, 'red')`: read, and compared in part."""

import re
from typing import Any, NamedTuple

from rrft_jax.rewards.format import extract_answer

# Possessive, so that hostile text is read in linear time.
_CALL = re.compile(r"\b([A-Za-z_]\w*+)\s*+\(([^()]*+)\)")


class Call(NamedTuple):
    """One step. All lower case, without quotes and outer spaces."""

    function: str
    object: str
    value: str


# What two calls may share, best first, and what that is worth.
_MATCHES = (
    (1.0, lambda call: call),
    (0.5, lambda call: (call.function, call.object)),
    (0.5, lambda call: (call.function, call.value)),
    (0.25, lambda call: call.function),
)


def parse_calls(text: str) -> list[Call]:
    """Every call with two arguments, in order, over any number of lines, whatever the quotes."""
    calls = []
    for function, arguments in _CALL.findall(text):
        values = [value.strip().strip("'\"`").strip().lower() for value in arguments.split(",")]
        if len(values) == 2 and all(values):
            calls.append(Call(function.lower(), *values))
    return calls


def full_reward(completion: str, example: Any) -> float:
    """The share of the calls that are right to the last detail, less what is said repeatedly.

    The calls of both sides that are the same, over the larger set's size, times the share of the
    completion's calls that are distinct; the order doesn't matter.
    """
    calls, solution = (
        parse_calls(text) for text in (extract_answer(completion)[0], example.answer)
    )
    answers, solutions = set(calls), set(solution)
    if not answers or not solutions:
        return 0.0
    right = len(answers & solutions) / max(len(answers), len(solutions))
    return right * len(answers) / len(calls)


def partial_credit(answer: str, solution: str) -> float:
    """The share of the calls that are right, partly right ones in part; between 0 and 1.

    Both sides are sets. A call that matches in full counts 1, by function and object 0.5, by
    function and value 0.5, by the function alone 0.25; matched in that order, each call once;
    divided by the larger set's size.
    """
    # Sorted, so that the result depends on nothing but the two sets.
    answers, solutions = (sorted(set(parse_calls(text))) for text in (answer, solution))
    if not answers or not solutions:
        return 0.0
    size = max(len(answers), len(solutions))
    credit = 0.0
    for worth, key in _MATCHES:
        for call in list(answers):
            partner = next((other for other in solutions if key(other) == key(call)), None)
            if partner is not None:
                credit += worth
                answers.remove(call)
                solutions.remove(partner)
    return credit / size
