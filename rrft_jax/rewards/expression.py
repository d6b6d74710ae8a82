r"""The value of a whole text as one mathematical expression: exact, and in the same form if equal.

    read(r"\frac{\sqrt{12}}{2}") == read(r"\sqrt 3")

A value is a sum of terms: rational numbers times powers of primes, pi, names, and whatever has no
simpler form. Roots of different primes are independent over the rationals, so two values are equal
just where their terms are. It takes LaTeX with or without dollars, and what people type instead.

Text from a model is hostile: the reading is linear in its length, and what grows is refused.
"""

import dataclasses
import math
import re
from fractions import Fraction
from typing import NoReturn

LONGEST = 200  # characters of an expression
_DEEPEST = 30  # brackets in brackets
_MOST_TERMS, _MOST_BITS = 64, 2048  # of a value
_LARGEST_FACTORED = 10**9
_POSITIVE = "pi"  # the only name that is known to be

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
_CLOSING = {"(": ")]", "[": "])"}


class Malformed(ValueError):
    """The text is no expression: prose, say, or one that grows without bound."""


class Beyond(ValueError):
    """The text may be an expression, of a kind that isn't read here."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A sum. `terms`: {powers, a frozenset of (atom, exponent): coefficient}, without zeros.

    An atom is a prime, whose exponent is between 0 and 1, a name, or something opaque, a tuple.
    """

    terms: dict[frozenset, Fraction]

    @property
    def frozen(self) -> frozenset:
        return frozenset(self.terms.items())

    @property
    def rational(self) -> Fraction | None:
        """Its value, if it's a rational number."""
        return self.terms.get(_ONE, Fraction(0)) if self.terms.keys() <= {_ONE} else None

    @property
    def number(self) -> Fraction | None:
        """Its value if it's a real number, to double precision where it isn't rational."""
        if self.rational is not None:
            return self.rational
        total = 0.0
        try:
            for powers, factor in self.terms.items():
                atoms = [(math.pi if a == "pi" else a, float(e)) for a, e in powers]
                if any(isinstance(atom, (str, tuple)) for atom, _ in atoms):
                    return None
                total += float(factor) * math.prod(atom**power for atom, power in atoms)
            return Fraction(total)
        except (OverflowError, ValueError):
            return None

    @property
    def is_opaque(self) -> bool:
        """Whether another form of it might be equal, and look otherwise."""
        return any(isinstance(atom, tuple) for powers in self.terms for atom, _ in powers)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """Several values: a list, a point `()`, an interval `(]`, or a set `{}` without order."""

    brackets: str
    values: tuple["Value | Sequence", ...]

    @property
    def frozen(self) -> tuple:
        values = [value.frozen for value in self.values]
        return (self.brackets, frozenset(values) if self.brackets == "{}" else tuple(values))

    @property
    def is_opaque(self) -> bool:
        return any(value.is_opaque for value in self.values)

    number = rational = None


_ONE: frozenset = frozenset()


def read(text: str) -> Value | Sequence:
    """The value of the whole text; its Unicode is resolved, and dollars and units are off.

    A comma groups thousands where all of a number is grouped well, `12,345`, but not in brackets;
    else it stands between two values. It's never a decimal point.

    Raises:
      Malformed: it isn't one expression.
      Beyond: it has a function, a relation, or another thing that isn't known here.
    """
    if len(text) > LONGEST:
        raise Malformed("too long")
    reader = _Reader(text)
    values = reader.values()
    if reader.skip() < len(text):
        reader.fail()
    return values[0] if len(values) == 1 else Sequence("()", tuple(values))


class _Reader:
    """A place in a text; each method reads what it's called after, from there on."""

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
            total = _times(total, _MINUS)
        while sign := self.take("+-"):
            term = self.product()
            total = _plus(total, _times(term, _MINUS) if sign == "-" else term)
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
                total = _times(total, self.factor(first=True))
            elif here == "/" or (command and command[1] == "div"):
                self.place = command.end() if command else self.place + 1
                total = _times(total, _power(self.factor(first=True), _MINUS))
            elif here in "({[\\|" and here or here.isalpha():
                if here == "\\" and self.text[self.place + 1 : self.place + 2] == "}":
                    return total
                if here == "|":
                    raise Beyond(here)
                tight = place == self.place and before.isdigit()
                total = _times(total, self.factor(tight=tight))
            elif here and here in "<>=":
                raise Beyond(here)
            else:
                return total

    def factor(self, first: bool = False, tight: bool = False) -> Value | Sequence:
        """With what is raised to it. `tight`: right behind a digit, as `xy` in `2xy`."""
        if first and (sign := self.take("+-")):
            return _times(self.factor(first=True), _MINUS if sign == "-" else constant(1))
        value = self.base(tight)
        while (here := self.peek()) in ("^", "!", "*"):
            if here == "*":
                if not self.text.startswith("**", self.place):
                    break
                self.place += 1
            self.place += 1
            value = _factorial(value) if here == "!" else _power(value, self.exponent())
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
        """A group in braces, or one sign, as LaTeX takes it: `12` are two of them."""
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
            return _name(here)
        self.fail()

    def command(self) -> Value | Sequence:
        match = _COMMAND.match(self.text, self.place)
        if not match:
            return self.set()
        name, self.place = match[1], match.end()
        if name in _FRACTIONS:
            above, below = self.nested(self.argument), self.nested(self.argument)
            return _times(above, _power(below, _MINUS))
        if name == "sqrt":
            return self.root(self.argument)
        if name == "pi" or name in _GREEK:
            return _name(name + self.index())
        raise Beyond(name)

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
        # LaTeX takes one sign, but nobody who types \sqrt12 or √221 means the root of its first.
        here = self.peek()
        inner = self.base() if here.isdigit() or here == "(" else self.nested(argument)
        return _power(inner, _power(degree, _MINUS))

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
        """A name: of one letter behind a digit, as in `2xy`, else of up to three, as in `AB`."""
        word = match[0]
        self.place = match.end()
        if word == "pi":
            return _name("pi")
        if word == "sqrt" and self.peek() == "(":
            return self.root(self.base)
        if word in FUNCTIONS:
            raise Beyond(word)
        if len(word) > 3:
            raise Malformed(word)
        if not tight:
            if len(word) > 1 and _LETTERS.match(self.peek()):
                raise Malformed("words")
            return _name(word + self.index())
        value = constant(1)
        for letter in word[:-1]:
            value = _times(value, _name(letter))
        return _times(value, _name(word[-1] + self.index()))

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


def constant(value: int | Fraction) -> Value:
    """A number's value."""
    return Value({_ONE: Fraction(value)} if value else {})


def _name(name: str) -> Value:
    return Value({frozenset([(name, Fraction(1))]): Fraction(1)})


_MINUS = constant(-1)


def _plus(a: Value | Sequence, b: Value | Sequence) -> Value:
    terms = dict(_terms(a))
    for powers, factor in _terms(b).items():
        terms[powers] = terms.get(powers, Fraction(0)) + factor
    return _bounded(terms)


def _times(a: Value | Sequence, b: Value | Sequence) -> Value:
    terms: dict[frozenset, Fraction] = {}
    if len(_terms(a)) * len(_terms(b)) > _MOST_TERMS:
        raise Malformed("too many terms")
    for powers, factor in _terms(a).items():
        for others, other in _terms(b).items():
            both = dict(powers)
            for atom, exponent in others:
                both[atom] = both.get(atom, Fraction(0)) + exponent
            rest, product = _simple(both)
            terms[rest] = terms.get(rest, Fraction(0)) + factor * other * product
    return _bounded(terms)


def _power(base: Value | Sequence, exponent: Value | Sequence) -> Value:
    terms, power = _terms(base), Value(_terms(exponent)).rational
    if power is None:
        return _opaque(base, exponent)
    if power.denominator == 1 and 0 <= power <= 6:
        result = constant(1)
        for _ in range(int(power)):
            result = _times(result, base)
        return result
    if not terms:
        if power < 0:
            raise Malformed("division by zero")
        return constant(0)
    if len(terms) > 1:
        return _opaque(base, exponent)
    ((powers, factor),) = terms.items()
    if power.denominator == 1:
        bits = max(factor.numerator.bit_length(), factor.denominator.bit_length())
        if bits * abs(power) > _MOST_BITS and abs(factor) != 1:
            raise Malformed("too large")
        rest, product = _simple({atom: e * power for atom, e in powers})
        return _bounded({rest: factor**power.numerator * product})
    roots = {atom: e * power for atom, e in powers}
    known = all(isinstance(atom, int) or atom == _POSITIVE for atom in roots)
    if factor < 0 or not known or max(factor.numerator, factor.denominator) > _LARGEST_FACTORED:
        return _opaque(base, exponent)
    for part, sign in ((factor.numerator, 1), (factor.denominator, -1)):
        for prime, times in _factors(part).items():
            roots[prime] = roots.get(prime, Fraction(0)) + sign * times * power
    rest, product = _simple(roots)
    return _bounded({rest: product})


def _opaque(base: Value | Sequence, exponent: Value | Sequence) -> Value:
    atom = ("power", Value(_terms(base)).frozen, Value(_terms(exponent)).frozen)
    return Value({frozenset([(atom, Fraction(1))]): Fraction(1)})


def _factorial(value: Value | Sequence) -> Value:
    number = Value(_terms(value)).rational
    if number is None or number.denominator > 1 or not 0 <= number <= 20:
        raise Malformed("factorial")
    return constant(math.factorial(int(number)))


def _simple(powers: dict) -> tuple[frozenset, Fraction]:
    """Powers without whole ones of primes, and their product, which is left out of them."""
    product = Fraction(1)
    for atom, exponent in list(powers.items()):
        if isinstance(atom, int):
            whole = math.floor(exponent)
            if abs(whole) * atom.bit_length() > _MOST_BITS:
                raise Malformed("too large")
            product *= Fraction(atom) ** whole
            powers[atom] = exponent - whole
    return frozenset((atom, e) for atom, e in powers.items() if e), product


def _factors(number: int) -> dict[int, int]:
    found: dict[int, int] = {}
    prime = 2
    while prime * prime <= number:
        while number % prime == 0:
            number //= prime
            found[prime] = found.get(prime, 0) + 1
        prime += 1 + prime % 2
    if number > 1:
        found[number] = found.get(number, 0) + 1
    return found


def _terms(value: Value | Sequence) -> dict[frozenset, Fraction]:
    if isinstance(value, Sequence):
        raise Malformed("a sequence in a sum")
    return value.terms


def _bounded(terms: dict[frozenset, Fraction]) -> Value:
    terms = {powers: factor for powers, factor in terms.items() if factor}
    sizes = (max(f.numerator.bit_length(), f.denominator.bit_length()) for f in terms.values())
    if len(terms) > _MOST_TERMS or max(sizes, default=0) > _MOST_BITS:
        raise Malformed("too large")
    return Value(terms)
