"""Is the answer right? Equal as text, as a number, as a set of calls, or as mathematics.

The evaluation of a split scores with the same comparisons, so they're public here.
"""

import functools
import logging
import math
import re
import warnings
from fractions import Fraction
from typing import Any

from rrft_jax.rewards.format import extract_answer
from rrft_jax.rewards.transformation import parse_calls

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2}|/\d+)?", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))", re.ASCII)
_LONGEST_NUMBER = 40

# Relative errors that `math_reward` takes for right and for wrong; exact, as the numbers are.
_NEAR, _FAR = Fraction(1, 20), Fraction(1, 5)

# math-verify runs for minutes on a short tower of powers or an expanded product, and its own time
# limits hold neither in a thread nor inside one long multiplication. Until something outside can
# end it, it only sees text in which nothing can grow: short, few brackets, few sums, few digits in
# a row, one power at most and that of a single letter or number, no factorial, no function.
_LONGEST_MATHEMATICS = 100
_MOST_BRACKETS = 6
_MOST_SUMS = 6
_COMMANDS = frozenset(
    "frac dfrac tfrac sqrt pi circ degree angle text mathrm boxed left right cdot times div "
    "approx quad".split()
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_SMALL_POWER = re.compile(r"(?<=\w)\^(\d(?!\d)|\{\d\})")
_UNTAMED = re.compile(r"\^|\*\*|!|\d{13}|\|")


def reward(completion: str, example: Any) -> float:
    """1 if the completion's answer is the example's, else 0.

    Without tags the whole completion is the answer, and only then does math-verify look for one
    in it: inside the tags there's to be the answer and nothing else.
    """
    answer, tagged = extract_answer(completion)
    if example.task == "spatial_transformation":
        calls = set(parse_calls(example.answer))
        return float(bool(calls) and set(parse_calls(answer)) == calls)
    return float(equal(answer, example.answer) or (not tagged and agree(answer, example.answer)))


def math_reward(completion: str, example: Any) -> float:
    """As `reward`, and between two numbers a near miss counts in part.

    1 up to a relative error of 5 %, 0 from 20 % on, half a period of a cosine between them. What is
    relative to a solution of 0 has no limit: 0 itself is right, everything else is wrong.
    """
    answer, _ = extract_answer(completion)
    value, solution = _number(answer), _number(example.answer)
    if value is None or not solution:
        return reward(completion, example)
    error = abs(value - solution) / abs(solution)
    if not _NEAR < error < _FAR:
        return float(error <= _NEAR)
    return (math.cos(math.pi * (error - _NEAR) / (_FAR - _NEAR)) + 1) / 2


def equal(answer: str, solution: str) -> bool:
    """Equal as text, or as numbers: 4.0 is 4, 1,000 is 1000, 1/2 is 0.5."""
    if answer.strip() == solution.strip():
        return True
    value = _number(answer)
    return value is not None and value == _number(solution)


def agree(answer: str, solution: str) -> bool:
    """Whether math-verify finds the solution's value in the answer; no if it can't or mustn't."""
    if not (_is_tame(answer) and _is_tame(solution)):
        return False
    try:
        parse, verify = _math_verify()
        if "\\" in solution and "$" not in solution:
            solution = f"${solution}$"  # or its commands would be read as words
        wanted = parse(solution, parsing_timeout=None)
        found = parse(answer, parsing_timeout=None)
        # The solution comes first: the comparison isn't symmetric.
        return bool(verify(wanted, found, timeout_seconds=None))
    except Exception as error:  # whatever a parser of foreign text comes to
        logging.getLogger(__name__).warning("math-verify failed, scored 0: %r", error)
        return False


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


def _is_tame(text: str) -> bool:
    text = _DEGREES.sub("", text.strip())
    text = _SMALL_POWER.sub("", text, count=1)
    return (
        0 < len(text) <= _LONGEST_MATHEMATICS
        and len(re.findall(r"[(\[{]", text)) <= _MOST_BRACKETS
        and len(re.findall(r"[+-]", text)) <= _MOST_SUMS
        and not _UNTAMED.search(text)
        and _COMMANDS.issuperset(re.findall(r"\\([A-Za-z]+)", text))
    )


@functools.cache
def _math_verify():
    """Imported at the first use, because it takes a second."""
    import math_verify
    from sympy.utilities.exceptions import SymPyDeprecationWarning

    # Its warning that the time limits are off: they are, see above. And its own use of SymPy.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=SymPyDeprecationWarning)
    return math_verify.parse, math_verify.verify
