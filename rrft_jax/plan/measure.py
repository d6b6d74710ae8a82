"""The plan of a config on a mesh: the memory and cost of its programs, compiled one by one."""

import dataclasses
import re
import time
from collections.abc import Mapping

import jax

from rrft_jax.data.shapes import Shape
from rrft_jax.errors import UserError
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import gpus
from rrft_jax.parallel.devices import Limits
from rrft_jax.plan import hlo, libraries
from rrft_jax.plan.programs import Program, bytes_a_device, programs
from rrft_jax.settings import Config

STEPS = {  # stage -> part of a step -> the programs that take the time of the part
    "sft": {"update": {"sft"}},
    "grpo": {
        "sample": {"prefill", "layer", "ends", "grow", "decode"},
        "old": {"old"},
        "reference": {"reference"},
        "update": {"update"},
    },
}


@dataclasses.dataclass
class Part:
    """One program on one device; all sizes are in bytes.

    Attributes:
      name: the name of the program.
      memory: the sizes by kind: "arguments", "outputs" (those not written over arguments),
        "aliased" (those written over arguments), "temporaries"; None if the compiler found no room.
      arguments: the sizes of the arguments, by their role.
      held: the sizes of other arrays that lie on the device meanwhile, by their role.
      estimated: the sizes of what the compiled program needs and doesn't state, by role.
      needed: the sum of all, as far as it is known.
      cost: the cost of all its runs in a step; see `hlo.Cost`.
      compile_seconds: the time that its compilation took here.
    """

    name: str
    memory: dict[str, int] | None
    arguments: dict[str, int]
    held: dict[str, int]
    needed: float
    cost: hlo.Cost | None = None
    compile_seconds: float = 0.0
    estimated: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def pieces(self) -> dict[str, float]:
        """The sizes of everything that lies on the device at once, by its role."""
        new = {k: self.memory[k] for k in ("outputs", "temporaries")} if self.memory else {}
        return {**self.arguments, **self.held, **new, **self.estimated}

    def seconds(self, limits: Limits) -> dict[str, float]:
        """Return the least time of its operations, memory traffic and collectives, each alone."""
        seconds = {
            "compute": self.cost.flops / limits.flops,
            "memory": self.cost.bytes / limits.bandwidth,
            "network": self.cost.sent / limits.network,
        }
        if self.cost.between:
            seconds["between nodes"] = self.cost.between / limits.between
        return seconds


@dataclasses.dataclass
class Plan:
    """The programs of a config on a mesh, measured.

    Attributes:
      config: the config of a run.
      sizes: the sizes of its model.
      mesh: the mesh.
      shape: the shape of the batches.
      limits: the limits of a device; None if they aren't known.
      parts: the programs.
      samples: stage -> number of samples that it trains on, as far as it is known.
    """

    config: Config
    sizes: VLMConfig
    mesh: jax.sharding.Mesh
    shape: Shape
    limits: Limits | None
    parts: list[Part]
    samples: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def peak(self) -> Part:
        """The part that needs the most memory."""
        return max(self.parts, key=lambda part: part.needed)

    @property
    def spare(self) -> float | None:
        """The bytes that are left at the peak, negative if it doesn't fit; None if not known."""
        if self.limits is None or self.limits.memory is None:
            return None
        return self.limits.memory - self.peak.needed

    @property
    def beside(self) -> dict[str, float]:
        """The estimated bytes that a GPU needs beside JAX's memory, by their role; else nothing."""
        return {} if self.left is None else libraries.beside(self.mesh.size)

    @property
    def left(self) -> float | None:
        """The bytes that JAX leaves beside its memory on a GPU; None on other devices."""
        if self.limits is None or self.limits.memory is None or self.limits.whole is None:
            return None
        return self.limits.whole - self.limits.memory

    @property
    def starved(self) -> bool:
        """True if JAX leaves too little of a GPU's memory to CUDA's libraries."""
        return self.left is not None and self.left < sum(self.beside.values())

    @property
    def fits(self) -> bool | None:
        """True if every program fits the device; None if the device's memory isn't known."""
        if any(part.memory is None for part in self.parts):
            return False
        if self.starved:
            return False
        return None if self.spare is None else self.spare >= 0

    @property
    def compile_seconds(self) -> float:
        """The seconds that all compilations took here."""
        return sum(part.compile_seconds for part in self.parts)

    def seconds(self, stage: str) -> dict[str, float]:
        """Return the least seconds of each part of a step: those of its slowest resource."""
        least = {p.name: max(p.seconds(self.limits).values()) for p in self.parts if p.cost}
        return {
            step: sum(least[name] for name in names & least.keys())
            for step, names in STEPS[stage].items()
            if names & least.keys()
        }


def make_plan(
    config: Config,
    sizes: VLMConfig,
    mesh: jax.sharding.Mesh,
    shape: Shape,
    limits: Limits | None,
    only: tuple[str, ...] = (),
    say=lambda text: None,
) -> Plan:
    """Compile the config's programs one after the other, and measure them.

    Args:
      config: the config of a run.
      sizes: the sizes of its model.
      mesh: a mesh of present devices, or of an absent slice.
      shape: the shape of its batches.
      limits: the limits of a device; None if they aren't known.
      only: the names of the programs to compile; () compiles all.
      say: a function that is called with a line before each compilation.

    Raises:
      UserError: the mesh can't split a batch, or XLA can't compile a program.
    """
    parts = []
    for program in programs(config, sizes, mesh, shape):
        if not only or program.name in only:
            say(f"compiling {program.name}")
            parts.append(_measure(program, mesh))
            if parts[-1].memory is None:
                break  # the next program needs the outputs of this one
    return Plan(config, sizes, mesh, shape, limits, parts)


def _measure(program: Program, mesh: jax.sharding.Mesh) -> Part:
    arguments, held = (
        {name: bytes_a_device(tree) for name, tree in trees.items() if tree is not None}
        for trees in (program.arguments, program.held)
    )
    started = time.perf_counter()
    try:
        compiled = program.compiled
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            kind, why = mesh.devices.flat[0].device_kind, str(error).splitlines()[0]
            raise UserError(
                f"XLA can't compile {program.name} for a {kind} ({why:.200}); try other "
                "sizes, such as another --prompt-tokens"
            ) from error
        needed = sum(held.values()) + _used(str(error))
        seconds = time.perf_counter() - started
        return Part(program.name, None, arguments, held, needed, compile_seconds=seconds)
    seconds = time.perf_counter() - started
    used = compiled.memory_analysis()
    memory = {
        "arguments": used.argument_size_in_bytes,
        "outputs": used.output_size_in_bytes - used.alias_size_in_bytes,
        "aliased": used.alias_size_in_bytes,
        "temporaries": used.temp_size_in_bytes,
    }
    text = compiled.as_text()
    size = libraries.workspace(text)
    estimated = {libraries.CUDNN: size} if size else {}
    needed = sum(held.values()) + sum(memory.values()) - memory["aliased"] + size
    connected = gpus.connected(mesh.devices.flatten())
    cost = hlo.cost(text, program.branch, connected).times(program.times)
    return Part(program.name, memory, arguments, held, needed, cost, seconds, estimated)


def _used(message: str) -> float:
    """Return the bytes that a program would have needed, read from the compiler's error."""
    found = re.search(r"(?:Used|required[^(]*\() ?([\d.]+)([KMGT])", message)
    return float(found[1]) * 1024 ** (1 + "KMGT".index(found[2])) if found else float("inf")
