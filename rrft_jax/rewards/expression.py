r"""The exact value of a text that is one mathematical expression; equal values have one form.

    read(r"\frac{\sqrt{12}}{2}") == read(r"\sqrt 3")

It reads LaTeX with or without dollars, and the plain forms that people type instead.

Text from a model is hostile. So reading takes time linear in its length, and values that would grow
without bound are refused.
"""

import re
from fractions import Fraction
from typing import NoReturn

from rrft_jax.rewards.value import (
    MINUS,
    Malformed,
    Sequence,
    Value,
    constant,
    factorial,
    name_of,
    plus,
    power,
    times,
)

LONGEST = 200  # characters of an expression
_DEEPEST = 30  # levels of nested brackets

_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?", re.ASCII)
_DECIMAL = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2}(?!\w))?", re.ASCII)
_MIXED = re.compile(
    r"\s*(?:\\[dtc]?frac\s*(?:\{\s*(\d{1,9})\s*\}|(\d))\s*(?:\{\s*(\d{1,9})\s*\}|(\d))"
    r"|\s(\d{1,9})\s*/\s*(\d{1,9})(?!\d))",
    re.ASCII,
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_LETTERS = re.compile(r"[A-Za-z]+")
_INDEX = re.compile(r"_(?:\{\s*(\w{1,9})\s*\}|(\w))")
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma "
    "tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell".split()
)
_FRACTIONS = frozenset(["frac", "dfrac", "tfrac", "cfrac"])
_TIMES = frozenset(["times", "cdot", "ast"])
FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan log ln lg exp max min".split())
# The commands that math-verify knows. It ignores other commands, so for it `\not 5` would be 5.
_BEYOND = FUNCTIONS | frozenset(
    "le leq ge geq lt gt ne neq in notin cup cap setminus emptyset infty pm mp binom sum prod int "
    "lim sinh cosh tanh lfloor rfloor lceil rceil bmod mathbb".split()
)
_CLOSING = {"(": ")]", "[": "])"}


class Beyond(ValueError):
    """The text may be an expression, of a kind that isn't read here."""


def read(text: str) -> Value | Sequence:
    """Return the value of the whole text, which must be without dollars, units and odd Unicode.

    A comma groups thousands if the whole number is grouped well, `12,345`, and is not in brackets.
    Otherwise it separates two values. It's never a decimal point.

    Raises:
      Malformed: the text isn't one expression.
      Beyond: the text has a function, a relation, or another part that isn't known here.
    """
    if len(text) > LONGEST:
        raise Malformed("too long")
    reader = _Reader(text)
    values = reader.values()
    if reader.skip() < len(text):
        reader.fail()
    return values[0] if len(values) == 1 else Sequence("()", tuple(values))


class _Reader:
    """A place in a text. Each method reads the part that it is named after, from this place on."""

    def __init__(self, text: str):
        self.text, self.place, self.depth, self.brackets = text, 0, 0, 0

    def values(self) -> list[Value | Sequence]:
        found = [self.sum()]
        while self.take(","):
            found.append(self.sum())
        return found

    def sum(self) -> Value | Sequence:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Malformed("too deep")
        sign = self.take("+-")
        total = self.product()
        if sign == "-":
            total = times(total, MINUS)
        while sign := self.take("+-"):
            term = self.product()
            total = plus(total, times(term, MINUS) if sign == "-" else term)
        self.depth -= 1
        return total

    def product(self) -> Value | Sequence:
        total = self.factor(first=True)
        while True:
            place, before = self.place, self.text[self.place - 1 : self.place]
            here = self.peek()
            command = _COMMAND.match(self.text, self.place)
            if here == "*" or (command and command[1] in _TIMES):
                self.place = command.end() if command else self.place + 1
                total = times(total, self.factor(first=True))
            elif here == "/" or (command and command[1] == "div"):
                self.place = command.end() if command else self.place + 1
                total = times(total, power(self.factor(first=True), MINUS))
            elif here in "({[\\|" and here or here.isalpha():
                if here == "\\" and self.text[self.place + 1 : self.place + 2] == "}":
                    return total
                if here == "|":
                    raise Beyond(here)
                tight = place == self.place and before.isdigit()
                total = times(total, self.factor(tight=tight))
            elif here and here in "<>=":
                raise Beyond(here)
            else:
                return total

    def factor(self, first: bool = False, tight: bool = False) -> Value | Sequence:
        """Read a factor with its exponent. `tight` means right after a digit, as `xy` in `2xy`."""
        if first and (sign := self.take("+-")):
            return times(self.factor(first=True), MINUS if sign == "-" else constant(1))
        value = self.base(tight)
        while (here := self.peek()) in ("^", "!", "*"):
            if here == "*":
                if not self.text.startswith("**", self.place):
                    break
                self.place += 1
            self.place += 1
            value = factorial(value) if here == "!" else power(value, self.exponent())
        return value

    def exponent(self) -> Value | Sequence:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Malformed("too deep")
        value = self.factor(first=True)
        self.depth -= 1
        return value

    def base(self, tight: bool = False) -> Value | Sequence:
        here = self.peek()
        if here.isdigit() or here == ".":
            return self.number()
        if here in ("(", "["):
            return self.bracket(here)
        if here == "{":
            return self.group()
        if here == "\\":
            return self.command()
        if match := _LETTERS.match(self.text, self.place):
            return self.letters(match, tight)
        if here and here in "|<>=":
            raise Beyond(here)
        self.fail()

    def number(self) -> Value:
        grouped = None if self.brackets else _GROUPED.match(self.text, self.place)
        match = grouped or _DECIMAL.match(self.text, self.place)
        if not match or len(match[0]) > 60:
            self.fail()
        self.place = match.end()
        value = Fraction(match[0].replace(",", ""))
        mixed = _MIXED.match(self.text, self.place)
        if mixed and match[0].isdigit():
            above, below = (int(digits) for digits in mixed.groups() if digits)
            if above < below:
                self.place = mixed.end()
                value += Fraction(above, below)
        return constant(value)

    def bracket(self, opening: str) -> Value | Sequence:
        self.place += 1
        self.brackets += 1
        values = self.values()
        self.brackets -= 1
        closing = self.take(_CLOSING[opening]) or self.fail()
        if len(values) > 1:
            return Sequence(opening + closing, tuple(values))
        if opening + closing not in ("()", "[]"):
            self.fail()
        return values[0]

    def group(self) -> Value | Sequence:
        if not self.take("{"):
            self.fail()
        value = self.sum()
        if not self.take("}"):
            self.fail()
        return value

    def argument(self) -> Value | Sequence:
        """Read a group in braces or, as LaTeX does, one sign: `12` is two arguments."""
        here = self.peek()
        if here == "{":
            return self.group()
        if here.isdigit():
            self.place += 1
            return constant(int(here))
        if here == "\\":
            return self.command()
        if _LETTERS.match(here):
            self.place += 1
            return name_of(here)
        self.fail()

    def command(self) -> Value | Sequence:
        match = _COMMAND.match(self.text, self.place)
        if not match:
            return self.set()
        name, self.place = match[1], match.end()
        if name in _FRACTIONS:
            above, below = self.nested(self.argument), self.nested(self.argument)
            return times(above, power(below, MINUS))
        if name == "sqrt":
            return self.root(self.argument)
        if name == "pi" or name in _GREEK:
            return name_of(name + self.index())
        if name in _BEYOND:
            raise Beyond(name)
        self.fail()

    def nested(self, read) -> Value | Sequence:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Malformed("too deep")
        value = read()
        self.depth -= 1
        return value

    def root(self, argument) -> Value | Sequence:
        degree = constant(2)
        if self.take("["):
            degree = self.sum()
            if not self.take("]"):
                self.fail()
        # LaTeX takes one sign, but \sqrt12 and √221 mean the root of the whole number.
        here = self.peek()
        inner = self.base() if here.isdigit() or here == "(" else self.nested(argument)
        return power(inner, power(degree, MINUS))

    def set(self) -> Sequence:
        if not self.text.startswith("\\{", self.place):
            self.fail()
        self.place += 2
        self.brackets += 1
        values = tuple(self.values())
        self.brackets -= 1
        self.skip()
        if not self.text.startswith("\\}", self.place):
            self.fail()
        self.place += 2
        return Sequence("{}", values)

    def letters(self, match: re.Match, tight: bool) -> Value | Sequence:
        """Read a name: one letter after a digit, as in `2xy`, else up to three, as in `AB`."""
        word = match[0]
        self.place = match.end()
        if word == "pi":
            return name_of("pi")
        if word == "sqrt" and (self.peek() == "(" or self.peek().isdigit()):
            return self.root(self.base)
        if word in FUNCTIONS:
            raise Beyond(word)
        if len(word) > 3:
            raise Malformed(word)
        if not tight:
            if len(word) > 1 and _LETTERS.match(self.peek()):
                raise Malformed("words")
            return name_of(word + self.index())
        value = constant(1)
        for letter in word[:-1]:
            value = times(value, name_of(letter))
        return times(value, name_of(word[-1] + self.index()))

    def index(self) -> str:
        match = _INDEX.match(self.text, self.place)
        if not match:
            return ""
        self.place = match.end()
        return "_" + (match[1] or match[2])

    def skip(self) -> int:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1
        return self.place

    def peek(self) -> str:
        return self.text[self.skip() : self.place + 1]

    def take(self, signs: str) -> str:
        here = self.peek()
        if here and here in signs:
            self.place += 1
            return here
        return ""

    def fail(self) -> NoReturn:
        raise Malformed(f"at {self.place}")
