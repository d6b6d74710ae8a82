"""How often the loops of a compiled program run.

XLA states it, or the loop's condition compares a number that the loop carries with a constant:
then the number's first value, its step and the constant tell it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rrft_jax.plan.hlo.module import Computation, Instruction, Module


class Carried(NamedTuple):
    """A number that a loop carries, at an index of its tuple, plus a constant."""

    index: int
    plus: int = 0


Value = int | Carried | list | None  # a list is a tuple; None isn't known


def trips(module: Module, loop: Instruction, within: Computation) -> int | None:
    """Return the greatest number of trips of a `while`; None if it isn't known.

    A number whose first value isn't known starts at 0.
    """
    if known := re.search(r'known_trip_count[^}]*"n":"(\d+)"', loop.attributes):
        return int(known[1])
    [condition], [body] = (
        [module.computations[name] for name in loop.called(kind)] for kind in ("condition", "body")
    )
    carried = [[Carried(i) for i in range(len(loop.arrays))]]
    start = within[loop.operands[0]]
    counts = []
    for number, limit in _limits(module, _root(condition), condition, carried):
        stepped = _element(module, _root(body), number.index, body, carried)
        if isinstance(stepped, Carried) and stepped.index == number.index and stepped.plus > 0:
            first = _element(module, start, number.index, within, ())
            first = first if isinstance(first, int) else 0
            counts.append(-(-(limit - number.plus - first) // stepped.plus))
    return min(counts, default=None)


def _limits(
    module: Module, x: Instruction, within: Computation, arguments: Sequence[Value]
) -> Iterator[tuple[Carried, int]]:
    """Yield the carried numbers that a condition asks to be less than a constant, and these."""
    if x.opcode in ("and", "bitcast", "copy"):
        for operand in x.operands:
            yield from _limits(module, within[operand], within, arguments)
    elif x.opcode in ("fusion", "call"):
        inner = module.computations[x.called("calls", "to_apply")[0]]
        values = [_value(module, within[name], within, arguments) for name in x.operands]
        yield from _limits(module, _root(inner), inner, values)
    elif x.opcode == "compare":
        left, right = (_value(module, within[name], within, arguments) for name in x.operands)
        direction = re.search(r"direction=(\w+)", x.attributes)[1]
        if direction == "GT":
            left, right, direction = right, left, "LT"
        if direction == "LT" and isinstance(left, Carried) and isinstance(right, int):
            yield left, right


def _value(
    module: Module, x: Instruction, within: Computation, arguments: Sequence[Value]
) -> Value:
    """Return a number or a tuple of numbers, where the parameters have these values."""
    if not x.shape.startswith("(") and x.arrays[0].dimensions:
        return None  # a whole array, behind which lies most of the program
    if x.opcode == "constant":
        found = re.fullmatch(r"\((-?\d+)\)", x.attributes)
        return int(found[1]) if found else None
    if x.opcode == "parameter":
        return arguments[int(x.attributes[1:-1])] if arguments else None
    if x.opcode not in ("get-tuple-element", "tuple", "bitcast", "copy", "add", "fusion", "call"):
        return None
    if x.opcode == "get-tuple-element":
        index = int(re.search(r"index=(\d+)", x.attributes)[1])
        return _element(module, within[x.operands[0]], index, within, arguments)
    values = [_value(module, within[name], within, arguments) for name in x.operands]
    if x.opcode == "tuple":
        return values
    if x.opcode == "add":
        carried, constant = sorted(values, key=lambda value: isinstance(value, int))
        if isinstance(carried, Carried) and isinstance(constant, int):
            return carried._replace(plus=carried.plus + constant)
        return None
    if x.opcode in ("bitcast", "copy"):
        return values[0]
    inner = module.computations[x.called("calls", "to_apply")[0]]
    return _value(module, _root(inner), inner, values)


def _element(
    module: Module, x: Instruction, index: int, within: Computation, arguments: Sequence[Value]
) -> Value:
    """Return the number at an index of a tuple, without a look at the others."""
    if x.opcode == "tuple":
        return _value(module, within[x.operands[index]], within, arguments)
    values = _value(module, x, within, arguments)
    return values[index] if isinstance(values, list) else None


def _root(computation: Computation) -> Instruction:
    return next(x for x in computation.values() if x.is_root)
