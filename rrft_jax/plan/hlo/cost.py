"""The cost of a compiled program: operations, bytes of memory, and bytes of messages.

XLA's own analysis counts the body of a loop once. This one counts it as often as the loop's
condition lets it run. In a conditional, the branch that the caller names counts, or the dearest
one. All numbers are those of one device.

  operations   in matrix products, and in attention: see `kernels.py`
  bytes        read from and written to the device's main memory: see `traffic.py`
  collectives  by kind: the bytes that arrive (all-gather: the result; otherwise the operands) and
               the bytes that the device has to send
"""

import dataclasses
import functools
from collections import Counter

from rrft_jax.plan.hlo import collectives, products
from rrft_jax.plan.hlo.kernels import Kernels
from rrft_jax.plan.hlo.loops import trips
from rrft_jax.plan.hlo.module import Computation, Instruction, Module
from rrft_jax.plan.hlo.traffic import Traffic


@dataclasses.dataclass
class Cost:
    """The cost of a program or a part of it, on one device.

    Attributes:
      flops: the floating-point operations.
      bytes: the bytes that are read from or written to main memory.
      collectives: the bytes that arrive by collectives, by kind.
      sent: the bytes that are sent to other devices.
      between: the bytes of them that the fast network doesn't carry.
      unknown: the number of instructions that cost more than is counted, by name. A "while" whose
        condition states no limit is counted once. A call of an unknown function has no operations.
    """

    flops: float = 0.0
    bytes: float = 0.0
    collectives: Counter = dataclasses.field(default_factory=Counter)
    sent: float = 0.0
    between: float = 0.0
    unknown: Counter = dataclasses.field(default_factory=Counter)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.collectives + other.collectives,
            self.sent + other.sent,
            self.between + other.between,
            self.unknown + other.unknown,
        )

    def times(self, n: int) -> "Cost":
        """Return the cost of `n` runs."""
        many = Counter({kind: n * size for kind, size in self.collectives.items()})
        sent, between = n * self.sent, n * self.between
        return Cost(n * self.flops, n * self.bytes, many, sent, between, self.unknown)


def cost(text: str, branch: int | None = None, connected: int | None = None) -> Cost:
    """Return the cost of a module.

    Args:
      text: the module, as `jax.stages.Compiled.as_text()` gives it.
      branch: the branch that every `jax.lax.switch` takes. The dearest branch counts for None, and
        in a conditional with fewer branches.
      connected: the number of neighbouring devices that the fast network connects, such as the GPUs
        of a node; None for all.
    """
    module = Module.parse(text)
    return _Costs(module, branch, connected).of(module.entry)


class _Costs:
    """The costs of a module's computations, by name."""

    def __init__(self, module: Module, branch: int | None, connected: int | None):
        self.module = module
        self.branch = branch
        self.connected = connected
        self.kernels = Kernels(module)
        self.started = collectives.Started(module)
        self.traffic = Traffic(module, self.started)
        self.of = functools.cache(self._of)

    def _of(self, name: str) -> Cost:
        computation = self.module.computations[name]
        return sum((self._one(x, computation, name) for x in computation.values()), Cost())

    def _one(self, x: Instruction, within: Computation, name: str) -> Cost:
        if x.opcode == "while":
            return self._loop(x, within)
        if x.opcode == "conditional":
            return self._conditional(x)
        if x.opcode in ("call", "async-start"):
            return self.of(x.called("to_apply", "calls")[0])
        moved = Cost(bytes=self.traffic.bytes(x, within))
        if x.opcode == "fusion":
            inner = self.of(x.called("calls")[0])  # its inner values are not in main memory
            return dataclasses.replace(inner, bytes=0.0) + moved
        if collectives.kind(x):
            if self.started.elsewhere(x, name):
                return moved
            found = collectives.exchange(x, within, name, self.module, self.connected)
            arrived = Counter({found.kind: found.arrived})
            return moved + Cost(collectives=arrived, sent=found.sent, between=found.between)
        if x.opcode == "custom-call":
            return moved + self._kernel(x, within)
        return moved + Cost(flops=products.flops(x, within))

    def _loop(self, x: Instruction, within: Computation) -> Cost:
        number = trips(self.module, x, within)
        once = self.of(x.called("body")[0]) + self.of(x.called("condition")[0])
        return once.times(number) if number else once + Cost(unknown=Counter({x.opcode: 1}))

    def _conditional(self, x: Instruction) -> Cost:
        branches = [self.of(name) for name in x.called("branch_computations")]
        if self.branch is not None and self.branch < len(branches):
            return branches[self.branch]
        branches += map(self.of, x.called("true_computation", "false_computation"))
        return max(branches, key=lambda cost: cost.flops + cost.bytes)

    def _kernel(self, x: Instruction, within: Computation) -> Cost:
        flops = self.kernels.flops(x, within)
        return Cost(unknown=Counter({x.target: 1})) if flops is None else Cost(flops=flops)
