"""The bytes of a device's main memory that an instruction reads and writes.

An instruction reads its operands and writes its result, with these exceptions:

  a slice            reads the slice
  an update in place reads and writes the update
  a fusion           reads of an operand what its results need, and its inner values not at all
  a library's call   has no use for its work space
  a TPU's vector memory is not main memory
"""

from rrft_jax.plan.hlo import collectives
from rrft_jax.plan.hlo.kernels import is_workspace
from rrft_jax.plan.hlo.module import Computation, Instruction, Module, main_size, size

_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "optimization-barrier", "iota",
}  # fmt: skip
_SLICES = {"dynamic-slice", "slice", "gather"}
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # and the operand that is the update


class Traffic:
    """The memory traffic of a module's instructions."""

    def __init__(self, module: Module, started: collectives.Started):
        self.module = module
        self.started = started

    def bytes(self, x: Instruction, within: Computation) -> float:
        """Return the bytes of main memory that one instruction reads and writes."""
        if x.opcode in _FREE or x.opcode.endswith("-done") or x.target == "AllocateBuffer":
            return 0
        if collectives.kind(x):
            return collectives.moved(x, within)
        if x.opcode.endswith("-start"):  # a copy to vector memory, or back
            ends = x.arrays[:2]
            return min(end.bytes for end in ends) * sum(bool(end.main_bytes) for end in ends)
        shapes = [within[operand].shape for operand in x.operands if operand in within]
        if x.opcode in _SLICES:
            return bool(main_size(shapes[0])) * size(x.shape) + main_size(x.shape)
        if x.opcode in _UPDATES:  # a scatter reads what it adds to
            passes = 2 if x.opcode == "scatter" else 1
            changed = passes * size(_update(x, within).shape) * bool(main_size(x.shape))
            return changed + sum(map(main_size, shapes[1:]))
        if x.opcode == "fusion":
            return self._fusion(x, shapes)
        written = (a.main_bytes for i, a in enumerate(x.arrays) if not is_workspace(x, i))
        return sum(map(main_size, shapes)) + sum(written)

    def _fusion(self, x: Instruction, shapes: list[str]) -> float:
        fused = self._fused(x)
        needed = self._needed(fused)
        total = sum(main_size(shape) * needed[i] for i, shape in enumerate(shapes))
        for result, array in zip(self._results(fused), x.arrays):
            if result.opcode in _UPDATES:
                total += bool(array.main_bytes) * size(_update(result, fused).shape)
            elif result.opcode != "parameter" and not self.started.under_way(result):
                total += array.main_bytes
        return total

    def _needed(self, fused: Computation, share: float = 1.0) -> list[float]:
        """Return the shares of a fusion's parameters that this share of its results needs.

        A fusion computes a value where a result needs it. So of an operand whose converted form is
        sliced, the slice is read alone. An operand that is handed on isn't read.
        """
        results = [x.name for x in self._results(fused)]
        needed = {name: share for name in results if fused[name].opcode != "parameter"}
        for x in reversed(fused.values()):
            if x.name in needed and not self.started.under_way(x):
                parts = self._operands_needed(x, fused, needed[x.name], x.name in results)
                for operand, part in zip(x.operands, parts):
                    needed[operand] = min(1.0, needed.get(operand, 0.0) + part)
        parameters = sorted(
            (int(x.attributes[1:-1]), x.name) for x in fused.values() if x.opcode == "parameter"
        )
        return [needed.get(name, 0.0) for _, name in parameters]

    def _operands_needed(
        self, x: Instruction, fused: Computation, share: float, is_result: bool
    ) -> list[float]:
        """Return the shares of an instruction's operands that this share of its result needs."""
        sizes = [_elements(fused[operand]) for operand in x.operands]
        if x.opcode in _SLICES:
            return [share * _elements(x) / sizes[0], *(1.0 for _ in sizes[1:])]
        if x.opcode in _UPDATES and is_result:  # in place; a scatter adds to what is there
            adds = x.opcode == "scatter"
            return [adds * _elements(_update(x, fused)) / sizes[0], *(1.0 for _ in sizes[1:])]
        if x.opcode == "fusion":
            handed_on = self._handed_on(x, fused)
            if handed_on is None:
                return self._needed(self._fused(x), share)
            return [share * (operand == handed_on.name) for operand in x.operands]
        same = (x.opcode in ("concatenate", "pad") or n == _elements(x) for n in sizes)
        return [share if y else 1.0 for y in same]

    def _fused(self, x: Instruction) -> Computation:
        return self.module.computations[x.called("calls")[0]]

    def _results(self, fused: Computation) -> list[Instruction]:
        """Return the instructions that compute a fusion's results, behind bitcasts."""
        [root] = (x for x in fused.values() if x.is_root)
        results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
        return [_unbitcast(x, fused) for x in results]

    def _handed_on(self, x: Instruction, within: Computation) -> Instruction | None:
        """Return the operand that an inner fusion returns as it is; None if it computes."""
        [result, *more] = self._results(self._fused(x))
        if more or result.opcode != "parameter":
            return None
        return within[x.operands[int(result.attributes[1:-1])]]


def _unbitcast(x: Instruction, within: Computation) -> Instruction:
    while x.opcode == "bitcast":
        x = within[x.operands[0]]
    return x


def _update(x: Instruction, within: Computation) -> Instruction:
    return within[x.operands[_UPDATES[x.opcode]]]


def _elements(x: Instruction) -> int:
    return sum(array.elements for array in x.arrays)
