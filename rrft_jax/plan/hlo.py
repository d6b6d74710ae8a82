"""The cost of a compiled program, read off its optimised HLO: operations, bytes, collectives.

XLA's own analysis counts the body of a loop once. This one counts it as often as the loop's
condition lets it run. In a conditional, the branch that the caller names counts, or the dearest
one. All numbers are those of one device.

  operations   in matrix products, and in the blocks that splash attention's kernels visit
  bytes        read from and written to the device's main memory by each instruction; a slice of a
               buffer counts as the slice; data in a TPU's vector memory does not count
  collectives  by kind: the bytes that arrive (all-gather: the result; otherwise the operands) and
               the bytes that the device has to send
"""

import collections
import dataclasses
import functools
import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass
class Cost:
    """The cost of a program or a part of it, on one device.

    Attributes:
      flops: the floating-point operations.
      bytes: the bytes that are read from or written to main memory.
      collectives: the bytes that arrive by collectives, by kind.
      sent: the bytes that are sent to other devices.
      unknown_loops: the number of loops that are counted once, because their conditions don't
        state a limit.
    """

    flops: float = 0.0
    bytes: float = 0.0
    collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    sent: float = 0.0
    unknown_loops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.collectives + other.collectives,
            self.sent + other.sent,
            self.unknown_loops + other.unknown_loops,
        )

    def times(self, n: int) -> "Cost":
        """Return the cost of `n` runs."""
        many = collections.Counter({kind: n * size for kind, size in self.collectives.items()})
        return Cost(n * self.flops, n * self.bytes, many, n * self.sent, self.unknown_loops)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`ROOT %name = shape opcode(%operand, ...), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


Computation = dict[str, Instruction]


def cost(text: str, branch: int | None = None) -> Cost:
    """Return the cost of a module.

    Args:
      text: the module, as `jax.stages.Compiled.as_text()` gives it.
      branch: the branch that every `jax.lax.switch` takes. The dearest branch counts for None, and
        in a conditional with fewer branches.
    """
    return _Module(text, branch).cost


class _Module:
    """The computations of a module by name, with the cost of each."""

    def __init__(self, text: str, branch: int | None = None):
        self.computations, self.entry = _parse(text)
        self.branch = branch
        # An asynchronous collective appears in every fusion during which it runs. Only the
        # computation that starts it counts.
        self.started = {
            _channel(x): name
            for name, computation in self.computations.items()
            if any('"AsyncCollectiveStart"' in x.attributes for x in computation.values())
            for x in computation.values()
            if _kind(x)
        }
        # All kernels of an attention visit the same blocks, but some have a larger grid. So take
        # the smallest grid of the kernels with equal lengths.
        self.visited: dict[tuple[int, int], int] = {}
        for computation in self.computations.values():
            for x in filter(_is_splash, computation.values()):
                call = _Splash.of(x)
                least = self.visited.get(call.lengths, call.area)
                self.visited[call.lengths] = min(least, call.area)
        self.of = functools.cache(self._of)

    @property
    def cost(self) -> Cost:
        return self.of(self.entry)

    def _of(self, name: str) -> Cost:
        computation = self.computations[name]
        return sum((self._one(x, computation, name) for x in computation.values()), Cost())

    def _one(self, x: Instruction, within: Computation, name: str) -> Cost:
        if x.opcode == "while":
            [body] = _called(x, "body")
            trips = self.trips(x)
            loop = self.of(body).times(trips or 1)
            return loop if trips else loop + Cost(unknown_loops=1)
        if x.opcode == "conditional":
            branches = [self.of(n) for n in _called(x, "branch_computations")]
            if self.branch is not None and self.branch < len(branches):
                return branches[self.branch]
            branches += [
                self.of(n) for k in ("true", "false") for n in _called(x, f"{k}_computation")
            ]
            return max(branches, key=lambda c: c.flops + c.bytes)
        if x.opcode == "call":
            return self.of(_called(x, "to_apply")[0])
        moved = Cost(bytes=self.bytes(x, within))
        if x.opcode == "fusion":
            inner = self.of(_called(x, "calls")[0])  # its inner values are not in main memory
            return dataclasses.replace(inner, bytes=0.0) + moved
        if x.opcode.endswith("async-start"):
            return moved + self.of(_called(x, "calls")[0])
        if _kind(x):
            return moved + self._collective(x, within, name)
        if _is_splash(x):
            call = _Splash.of(x)
            return moved + Cost(flops=call.flops_a_pair * self.visited[call.lengths])
        return moved + Cost(flops=_flops(x, within))

    def _collective(self, x: Instruction, within: Computation, name: str) -> Cost:
        if self.started.get(_channel(x), name) != name:
            return Cost()
        kind, n = _kind(x), _group_size(x.attributes)
        # XLA's name for a reduce-scatter in a fusion.
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        size = sum(_size(within[operand].shape) for operand in x.operands)
        share = (n - 1) / n
        sent = {
            "all-gather": size * (n - 1),
            "all-reduce": 2 * size * share,
            "collective-permute": size,
        }.get(kind, size * share)
        arrived = size * n if kind == "all-gather" else size
        return Cost(collectives=collections.Counter({kind: arrived}), sent=sent)

    def trips(self, loop: Instruction) -> int | None:
        """Return the greatest number of trips of a loop; None if it isn't known.

        XLA states it, or the loop's condition compares the index with a constant.
        """
        if known := re.search(r'known_trip_count[^}]*"n":"(\d+)"', loop.attributes):
            return int(known[1])
        computation = self.computations[_called(loop, "condition")[0]]
        for x in computation.values():
            if x.opcode == "compare" and "direction=LT" in x.attributes:
                limit = computation[x.operands[1]]
                if limit.opcode == "constant":
                    return int(re.search(r"-?\d+", limit.attributes)[0])
        return None

    def bytes(self, x: Instruction, within: Computation) -> float:
        """Return the bytes of main memory that one instruction reads and writes."""
        if x.opcode in _FREE or x.opcode.endswith("-done"):
            return 0
        if x.opcode.endswith("-start") and not _kind(x):  # a copy to vector memory, or back
            ends = _arrays(x.shape)[:2]
            return min(map(_bytes, ends)) * sum(bool(_main(end)) for end in ends)
        shapes = [within[operand].shape for operand in x.operands if operand in within]
        if x.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * _main_size(x.shape)
        if x.opcode == "dynamic-update-slice":
            return 2 * _main_size(shapes[1])
        if x.opcode != "fusion":
            return sum(map(_main_size, [*shapes, x.shape]))
        fused = self.computations[_called(x, "calls")[0]]
        read = (self._read(fused, i, shape) for i, shape in enumerate(shapes))
        return sum(read) + self._written(fused, x)

    def _read(self, fused: Computation, index: int, shape: str) -> float:
        """Return the bytes that a fusion reads of an operand: all, or the slices that it takes."""
        whole = _main_size(shape)
        if not whole:
            return 0
        parameter = next(
            x
            for x in fused.values()
            if x.opcode == "parameter" and x.attributes.startswith(f"({index})")
        )
        total, pending = 0.0, [parameter.name]
        while pending:
            name = pending.pop()
            for user in fused.values():
                if name not in user.operands:
                    continue
                first = user.operands[0] == name
                if self._under_way(user):
                    continue
                if user.opcode == "bitcast":
                    pending.append(user.name)
                elif user.opcode in ("dynamic-slice", "slice", "gather") and first:
                    total += _size(user.shape)
                elif user.opcode == "tuple" or (user.opcode == "dynamic-update-slice" and first):
                    pass  # handed on, or written in place
                elif user.opcode == "fusion":
                    inner = self.computations[_called(user, "calls")[0]]
                    index = user.operands.index(name)
                    [root] = (x for x in inner.values() if x.is_root)
                    if _unbitcast(root, inner).attributes == f"({index})":
                        pending.append(user.name)
                    else:
                        total += self._read(inner, index, shape)
                else:
                    return whole
        return min(total, whole)

    def _under_way(self, x: Instruction) -> bool:
        """Say whether an instruction is part of a collective that runs beside a fusion's work."""
        return bool(_kind(x)) and _channel(x) in self.started

    def _written(self, fused: Computation, fusion: Instruction) -> float:
        """Return the bytes of results that a fusion writes: all, or the slices written in place."""
        [root] = (x for x in fused.values() if x.is_root)
        results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
        total = 0.0
        for result, array in zip(results, _arrays(fusion.shape)):
            result = _unbitcast(result, fused)
            if result.opcode == "dynamic-update-slice":
                total += bool(_main(array)) * _size(fused[result.operands[1]].shape)
            elif result.opcode != "parameter" and not self._under_way(result):
                total += _main(array)
        return total


_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "optimization-barrier", "iota",
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    """Return the computations of a module by name, and the name of its entry."""
    computations, entry, current = {}, "", {}
    text = re.sub(r'\n(?="|\}\})', " ", text)  # an attribute may span several lines
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif found := _LINE.match(line):
            rest = line[found.end() :]
            end = _closing(rest, 0) + 1 if rest[0] == "(" else rest.index(" ")
            shape, call = rest[:end], rest[end:].lstrip()
            opcode, _, _ = call.partition("(")
            close = _closing(call, len(opcode))
            inside = call[len(opcode) + 1 : close]
            attributes = call[close + 1 :]
            if opcode in ("parameter", "constant"):
                attributes = f"({inside})"
            operands = tuple(_NAME.findall(inside))
            current[found[2]] = Instruction(
                found[2], shape, opcode, operands, attributes, bool(found[1])
            )
    return computations, entry


def _closing(text: str, start: int) -> int:
    """Return the index at which the parenthesis at `start` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    return len(text)


def _called(x: Instruction, kind: str) -> list[str]:
    found = re.search(rf"\b{kind}=(\{{[^}}]*\}}|%[\w.\-]+)", x.attributes)
    return _NAME.findall(found[1]) if found else []


def _unbitcast(x: Instruction, within: Computation) -> Instruction:
    while x.opcode == "bitcast":
        x = within[x.operands[0]]
    return x


def _arrays(shape: str) -> list[tuple[str, str, str]]:
    """Return (dtype, sizes, layout) of each array of a shape."""
    return _ARRAY.findall(shape)


def _bytes(array: tuple[str, str, str]) -> float:
    dtype, sizes, _ = array
    bits = 8 if dtype == "pred" else int((re.search(r"\d+", dtype) or "0")[0])
    return math.prod(map(int, filter(None, sizes.split(",")))) * bits / 8


def _main(array: tuple[str, str, str]) -> float:
    """Return the bytes of an array in main memory; 0 if it lies in another memory."""
    return 0.0 if re.search(r"S\([1-9]", array[2]) else _bytes(array)


def _size(shape: str) -> float:
    return sum(map(_bytes, _arrays(shape)))


def _main_size(shape: str) -> float:
    return sum(map(_main, _arrays(shape)))


def _kind(x: Instruction) -> str | None:
    kind = x.opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def _channel(x: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", x.attributes)
    return found[1] if found else x.name


def _group_size(attributes: str) -> int:
    """Return the number of devices in a group of a collective; XLA writes groups in three ways."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    found = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    return len(found[1].split(",")) if found else 1


def _flops(x: Instruction, within: Computation) -> float:
    if x.opcode == "dot":
        shape = _dimensions(within[x.operands[0]].shape)
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)[1]
        inner = math.prod(shape[int(i)] for i in contracted.split(",") if i)
        return 2.0 * math.prod(_dimensions(x.shape)) * inner
    if x.opcode == "convolution":
        return _convolution_flops(x, within)
    return 0.0


def _dimensions(shape: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, _arrays(shape)[0][1].split(","))))


def _convolution_flops(x: Instruction, within: Computation) -> float:
    """Return the operations of a convolution.

    On a TPU a matrix product is a convolution, and its batch axes may appear as spatial axes. On
    these, only the window positions outside the padding count.
    """
    left, kernel, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes).groups()
    left_shape, kernel_shape = (_dimensions(within[name].shape) for name in x.operands[:2])
    out_shape = _dimensions(x.shape)
    inner = kernel_shape[kernel.index("i")]
    total = 2.0 * out_shape[out.index("b")] * out_shape[out.index("f")] * inner
    window = dict(
        re.findall(r"(\w+)=(\S+)", (re.search(r"window=\{([^}]*)\}", x.attributes) or " {}")[1])
    )
    for axis in sorted(set(out) & set("0123456789")):
        i = int(axis)
        parts = {name: value.split("x")[i] for name, value in window.items()}
        stride, hole, spread = (
            int(parts.get(name, 1)) for name in ("stride", "rhs_dilate", "lhs_dilate")
        )
        low = int(parts.get("pad", "0_0").split("_")[0])
        size = (left_shape[left.index(axis)] - 1) * spread + 1
        steps = out_shape[out.index(axis)]
        width = kernel_shape[kernel.index(axis)]
        positions = (o * stride + k * hole - low for o in range(steps) for k in range(width))
        total *= sum(0 <= p < size and p % spread == 0 for p in positions)
    return total


class _Splash(NamedTuple):
    """A call of one of splash attention's kernels.

    Attributes:
      lengths: the numbers of queries and of keys.
      area: the number of (query, key) pairs in the blocks of its grid.
      flops_a_pair: the operations per pair, for all heads together.
    """

    lengths: tuple[int, int]
    area: int
    flops_a_pair: float

    @classmethod
    def of(cls, x: Instruction) -> "_Splash":
        """Read a call from its instruction."""
        operands = re.search(r"operand_layout_constraints=\{(.*?\})\}", x.attributes)[1]
        arrays = [(a[0], tuple(map(int, a[1].split(",")))) for a in _arrays(operands)]
        grid = next(sizes for dtype, sizes in arrays if dtype in ("s8", "s16", "s32"))
        queries, keys = [sizes for dtype, sizes in arrays if "f" in dtype][:2]
        # The matrix products of each kernel. Forward: scores, output. dq: scores, the gradients of
        # weights and queries. dkv: scores, the gradients of weights, keys and values.
        kind, products = next(
            (kind, n) for kind, n in (("_dq", 3), ("_dkv", 4), ("", 2)) if kind in x.name
        )
        blocks = dict(re.findall(r'(block_\w+)\\?": (\d+)', x.attributes))
        area = math.prod(int(blocks[f"block_{side}{kind}"]) for side in ("q", "kv"))
        return cls(
            (queries[-2], keys[-2]),
            math.prod(grid[-2:]) * area,
            2.0 * products * math.prod(queries[:-2]) * queries[-1],
        )


def _is_splash(x: Instruction) -> bool:
    return x.opcode == "custom-call" and x.name.startswith("splash_mha")
