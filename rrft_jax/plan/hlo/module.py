"""The text of a compiled program as instructions, with the sizes of their arrays."""

import dataclasses
import math
import re
from typing import NamedTuple


class Array(NamedTuple):
    """One array of a shape, such as `bf16[8,128]{1,0:S(1)}`."""

    dtype: str
    dimensions: tuple[int, ...]
    layout: str

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.dimensions)

    @property
    def bytes(self) -> float:
        """The size in bytes."""
        bits = 8 if self.dtype == "pred" else int((re.search(r"\d+", self.dtype) or "0")[0])
        return self.elements * bits / 8

    @property
    def main_bytes(self) -> float:
        """The bytes in the device's main memory; 0 if the array lies in a TPU's vector memory."""
        return 0.0 if re.search(r"S\([1-9]", self.layout) else self.bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`ROOT %name = shape opcode(%operand, ...), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result."""
        return arrays(self.shape)

    def called(self, *kinds: str) -> list[str]:
        """Return the names of the computations that it calls in these roles, such as "body"."""
        found = (re.search(rf"\b{k}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes) for k in kinds)
        return [name for x in found if x for name in _NAME.findall(x[1])]

    @property
    def target(self) -> str:
        """The function that a custom call runs; "" for all others."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]  # by name, each behind its operands


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: its computations by name.
      entry: the name of the computation that runs first.
      devices: the number of devices that it runs on.
    """

    computations: dict[str, Computation]
    entry: str
    devices: int

    @classmethod
    def parse(cls, text: str) -> "Module":
        """Read a module from the text that `jax.stages.Compiled.as_text()` gives."""
        counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
        computations, entry, current = {}, "", {}
        text = re.sub(r'\n(?="|\}\})', " ", text)  # an attribute may span several lines
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            elif found := _LINE.match(line):
                current[found[2]] = _instruction(found[2], line[found.end() :], bool(found[1]))
        return cls(computations, entry, math.prod(map(int, counts)))


_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


def arrays(shape: str) -> tuple[Array, ...]:
    """Return the arrays of a shape, which may be a tuple of shapes."""
    return tuple(
        Array(dtype, tuple(map(int, filter(None, sizes.split(",")))), layout)
        for dtype, sizes, layout in _ARRAY.findall(shape)
    )


def size(shape: str) -> float:
    """Return the bytes of all arrays of a shape."""
    return sum(array.bytes for array in arrays(shape))


def main_size(shape: str) -> float:
    """Return the bytes of all arrays of a shape that lie in main memory."""
    return sum(array.main_bytes for array in arrays(shape))


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    """Read `shape opcode(operands), attributes`."""
    end = _closing(text, 0) + 1 if text[0] == "(" else text.index(" ")
    shape, call = text[:end], text[end:].lstrip()
    opcode, _, _ = call.partition("(")
    close = _closing(call, len(opcode))
    inside, attributes = call[len(opcode) + 1 : close], call[close + 1 :]
    if opcode in ("parameter", "constant"):
        attributes = f"({inside})"
    return Instruction(name, shape, opcode, tuple(_NAME.findall(inside)), attributes, is_root)


def _closing(text: str, start: int) -> int:
    """Return the index at which the parenthesis at `start` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    return len(text)
