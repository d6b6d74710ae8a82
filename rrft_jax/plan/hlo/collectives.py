"""What a device exchanges with the others in one collective."""

import re
from typing import NamedTuple

from rrft_jax.plan.hlo.groups import groups
from rrft_jax.plan.hlo.module import Computation, Instruction, Module, size

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Exchange(NamedTuple):
    """The bytes of a collective, on one device.

    Attributes:
      kind: one of `KINDS`.
      arrived: the bytes that arrive: of an all-gather the result, otherwise the operands.
      sent: the bytes that the device has to send.
      between: the bytes of them that go to devices which the fast network doesn't connect, if those
        that it connects first put together what they send.
    """

    kind: str
    arrived: float
    sent: float
    between: float


def kind(x: Instruction) -> str | None:
    """Return the kind of a collective or of its start; None for all other instructions."""
    name = x.opcode.removesuffix("-start")
    return name if name in KINDS else None


def exchange(
    x: Instruction, within: Computation, name: str, module: Module, connected: int | None = None
) -> Exchange:
    """Return what a collective of the computation `name` exchanges.

    Args:
      x: the collective.
      within: the instructions of its computation.
      name: the name of its computation.
      module: the program.
      connected: the number of neighbouring devices that the fast network connects; None for all.
    """
    operands = sum(size(within[operand].shape) for operand in x.operands)
    ids, found = groups(x.attributes, module.devices), kind(x)
    number = ids.shape[1]
    places = ids // (connected or module.devices)
    apart = max(len(set(row)) for row in places.tolist())  # the places over which a group lies
    near = number / apart
    # XLA's name for a reduce-scatter in a fusion.
    if found == "all-reduce" and name.startswith("all-reduce-scatter"):
        found = "reduce-scatter"
    share = (number - 1) / number
    sent = {
        "all-gather": operands * (number - 1),
        "all-reduce": 2 * operands * share,
        "collective-permute": operands,
    }.get(found, operands * share)
    between = {
        "all-gather": operands * (apart - 1),
        "reduce-scatter": operands / near * (apart - 1) / apart,
        "all-reduce": 2 * operands / near * (apart - 1) / apart,
        "all-to-all": operands * (apart - 1) / apart,
        "collective-permute": operands * (apart > 1),
    }[found]
    arrived = operands * number if found == "all-gather" else operands
    return Exchange(found, arrived, sent, between)


def moved(x: Instruction, within: Computation) -> float:
    """Return the bytes of main memory that a collective reads and writes on its own device."""
    number, results = len(x.operands), x.arrays
    if len(results) >= 2 * number:  # a start states its operands, then its results
        results = results[number : 2 * number]
    read = [array for operand in x.operands for array in within[operand].arrays]
    return sum(array.main_bytes for array in (*read, *results))


class Started:
    """The computations that start the asynchronous collectives of a TPU.

    Such a collective appears in every fusion during which it runs. Only the computation that
    starts it counts.
    """

    def __init__(self, module: Module):
        self.by_channel = {
            _channel(x): name
            for name, computation in module.computations.items()
            if any('"AsyncCollectiveStart"' in x.attributes for x in computation.values())
            for x in computation.values()
            if kind(x)
        }

    def elsewhere(self, x: Instruction, name: str) -> bool:
        """Say whether a collective of the computation `name` was started by another one."""
        return self.by_channel.get(_channel(x), name) != name

    def under_way(self, x: Instruction) -> bool:
        """Say whether an instruction is part of a collective that runs beside a fusion's work."""
        return bool(kind(x)) and _channel(x) in self.by_channel


def _channel(x: Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", x.attributes)
    return found[1] if found else x.name
