"""Exact values: sums of rational numbers times powers of primes, pi, names, and opaque things.

Roots of different primes are independent over the rationals, so two values are equal exactly if
their terms are equal. Values that would grow without bound are refused.
"""

import dataclasses
import math
from fractions import Fraction

_MOST_TERMS, _MOST_BITS = 64, 2048  # limits of a value
_LARGEST_FACTORED = 10**9
_POSITIVE = "pi"  # the only name that is known to be positive
_ONE: frozenset = frozenset()


class Malformed(ValueError):
    """The text is no expression: for example prose, or a value that grows without bound."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A sum of terms. `terms` maps powers to coefficients, none of which is 0.

    Powers are a frozenset of (atom, exponent). An atom is a prime (whose exponent is between 0 and
    1), a name, or a tuple, which is opaque.
    """

    terms: dict[frozenset, Fraction]

    @property
    def frozen(self) -> frozenset:
        return frozenset(self.terms.items())

    @property
    def rational(self) -> Fraction | None:
        """The value as a rational number; None if it isn't rational."""
        return self.terms.get(_ONE, Fraction(0)) if self.terms.keys() <= {_ONE} else None

    @property
    def number(self) -> Fraction | None:
        """The value as a real number, in double precision if it isn't rational; else None."""
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
        """Return whether an equal value might have another form."""
        return any(isinstance(atom, tuple) for powers in self.terms for atom, _ in powers)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """Several values: a list, point `()`, interval `(]`, ratio `:`, or unordered set `{}`."""

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


def constant(value: int | Fraction) -> Value:
    """Return the value of a number."""
    return Value({_ONE: Fraction(value)} if value else {})


def name_of(name: str) -> Value:
    """Return the value of a name, `pi` or an unknown."""
    return Value({frozenset([(name, Fraction(1))]): Fraction(1)})


MINUS = constant(-1)


def plus(a: Value | Sequence, b: Value | Sequence) -> Value:
    """Return the sum of two values.

    Raises:
      Malformed: a value is a sequence, or the result is too large. This holds for all operations.
    """
    terms = dict(_terms(a))
    for powers, factor in _terms(b).items():
        terms[powers] = terms.get(powers, Fraction(0)) + factor
    return _bounded(terms)


def times(a: Value | Sequence, b: Value | Sequence) -> Value:
    """Return the product of two values, multiplied out."""
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


def power(base: Value | Sequence, exponent: Value | Sequence) -> Value:
    """Return a power; opaque if the exponent isn't rational, or the result has no exact form."""
    terms, degree = _terms(base), Value(_terms(exponent)).rational
    if degree is None:
        return _opaque(base, exponent)
    if degree.denominator == 1 and 0 <= degree <= 6:
        result = constant(1)
        for _ in range(int(degree)):
            result = times(result, base)
        return result
    if not terms:
        if degree < 0:
            raise Malformed("division by zero")
        return constant(0)
    if len(terms) > 1:
        return _opaque(base, exponent)
    ((powers, factor),) = terms.items()
    if degree.denominator == 1:
        bits = max(factor.numerator.bit_length(), factor.denominator.bit_length())
        if bits * abs(degree) > _MOST_BITS and abs(factor) != 1:
            raise Malformed("too large")
        rest, product = _simple({atom: e * degree for atom, e in powers})
        return _bounded({rest: factor**degree.numerator * product})
    roots = {atom: e * degree for atom, e in powers}
    known = all(isinstance(atom, int) or atom == _POSITIVE for atom in roots)
    if factor < 0 or not known or max(factor.numerator, factor.denominator) > _LARGEST_FACTORED:
        return _opaque(base, exponent)
    for part, sign in ((factor.numerator, 1), (factor.denominator, -1)):
        for prime, count in _factors(part).items():
            roots[prime] = roots.get(prime, Fraction(0)) + sign * count * degree
    rest, product = _simple(roots)
    return _bounded({rest: product})


def _opaque(base: Value | Sequence, exponent: Value | Sequence) -> Value:
    atom = ("power", Value(_terms(base)).frozen, Value(_terms(exponent)).frozen)
    return Value({frozenset([(atom, Fraction(1))]): Fraction(1)})


def factorial(value: Value | Sequence) -> Value:
    """Return the factorial of a whole number up to 20."""
    number = Value(_terms(value)).rational
    if number is None or number.denominator > 1 or not 0 <= number <= 20:
        raise Malformed("factorial")
    return constant(math.factorial(int(number)))


def _simple(powers: dict) -> tuple[frozenset, Fraction]:
    """Return powers without whole powers of primes, and the product of these whole powers."""
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
