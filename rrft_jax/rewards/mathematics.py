"""Calls of math-verify on text from a model. Only the guard's worker processes import this.

math-verify can run for minutes on a short tower of powers or an expanded product. Its own time
limits work neither in a thread nor inside one long multiplication. So they are off, and the guard
ends a worker that takes too long.
"""

import logging
import re
import warnings

import math_verify
from sympy.utilities.exceptions import SymPyDeprecationWarning

from rrft_jax.rewards.expression import FUNCTIONS

_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+")

# These silence math-verify's warnings about switched-off time limits and about its use of SymPy.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=SymPyDeprecationWarning)


def same(a: str, b: str) -> bool:
    """Return whether two formulas without dollars are equal; the order does not matter."""
    first, second = map(_parse_formula, (a, b))
    return _verify(first, second) and _verify(second, first)


def agree(answer: str, solution: str) -> bool:
    """Return whether the answer has the solution's value, by the public code's call.

    The public code passes the two in the opposite order, and reads commands without dollar signs as
    words.
    """
    return _verify(_parse(answer), _parse(solution))


def _parse_formula(text: str) -> list:
    def command(match: re.Match) -> str:
        return ("\\" if match[0] in FUNCTIONS else "") + match[0]

    text = re.sub(r"\^?°", r"^{\\circ}", _WORD.sub(command, text))
    return _parse(f"${text}$")


def _parse(text: str) -> list:
    return math_verify.parse(text, parsing_timeout=None, raise_on_error=True)


def _verify(wanted: list, found: list) -> bool:
    return bool(math_verify.verify(wanted, found, timeout_seconds=None, raise_on_error=True))


same("\\frac{1}{2}", "0.5")  # loads the grammar before the first time limit begins
