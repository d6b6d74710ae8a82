"""math-verify, asked about text from a model. Only the guard's worker processes import this.

It runs for minutes on a short tower of powers or an expanded product, and its own time limits hold
neither in a thread nor inside one long multiplication: so they're off, and a worker that takes too
long is ended from outside.
"""

import logging
import warnings

import math_verify
from sympy.utilities.exceptions import SymPyDeprecationWarning

# Its warning that the time limits are off; and its own use of SymPy.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=SymPyDeprecationWarning)


def agree(answer: str, solution: str, swapped: bool = False) -> bool:
    """Whether the solution's value is found in the answer.

    `swapped` compares as the public implementation does: the other way round, and commands of a
    solution without dollar signs are words.
    """
    if swapped:
        return _verify(_parse(answer), _parse(solution))
    if "\\" in solution and "$" not in solution:
        solution = f"${solution}$"  # or its commands would be read as words
    # The solution comes first: the comparison isn't symmetric.
    return _verify(_parse(solution), _parse(answer))


def _parse(text: str) -> list:
    return math_verify.parse(text, parsing_timeout=None, raise_on_error=True)


def _verify(wanted: list, found: list) -> bool:
    return bool(math_verify.verify(wanted, found, timeout_seconds=None, raise_on_error=True))


agree("$\\frac{1}{2}$", "0.5")  # loads the grammar, which must not be on the first text's time
