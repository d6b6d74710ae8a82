"""`Finding`: one line of the check's table, and the reasons for which a part of it has none."""

import dataclasses
import math

from rrft_jax.errors import UserError

Value = float | str | None


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
      what: its name, with the unit of its value.
      value: the measured value; None if it can't be known here.
      wanted: the bound of the value, such as "at most 0.01"; "" if it has none.
      holds: whether the value keeps its bound; None if it has none.
    """

    what: str
    value: Value
    wanted: str = ""
    holds: bool | None = None


class Skip(UserError):
    """A part that can't run here, and the reason."""


def told(what: str, value: Value) -> Finding:
    """Return a finding without a bound."""
    return Finding(what, _plain(value))


def at_most(what: str, value: float | None, bound: float) -> Finding:
    """Return a finding whose value should be at most `bound`; NaN isn't."""
    return _bounded(what, value, f"at most {bound:.3g}", value is not None and value <= bound)


def at_least(what: str, value: float | None, bound: float) -> Finding:
    """Return a finding whose value should be at least `bound`; NaN isn't."""
    return _bounded(what, value, f"at least {bound:.3g}", value is not None and value >= bound)


def same(what: str, value: Value, wanted: Value) -> Finding:
    """Return a finding whose value should be `wanted`; it has no bound if that is None."""
    if wanted is None:
        return told(what, value)
    return Finding(what, _plain(value), str(_plain(wanted)), value == wanted)


def near(what: str, value: float | None, wanted: float, share: float) -> Finding:
    """Return a finding whose value should differ from `wanted` by at most a share of it."""
    holds = value is not None and abs(value - wanted) <= share * wanted
    return _bounded(what, value, f"{wanted:.4g} ± {100 * share:.3g} %", holds)


def _bounded(what: str, value: float | None, wanted: str, holds: bool) -> Finding:
    if value is None:
        return Finding(what, None)
    return Finding(what, _plain(value), wanted, bool(holds))


def _plain(value: Value) -> Value:
    """Return a value that JSON can hold: numbers with six digits, and no NaN."""
    if value is None or isinstance(value, str):
        return value
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)
