"""The plan of a config on a mesh: the memory and cost of its programs, and the verdict."""

import dataclasses
import re
import time
from typing import Any

import jax

from rrft_jax.data.shapes import Shape
from rrft_jax.markdown import aligned
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import sharding
from rrft_jax.parallel.devices import GIB, Limits
from rrft_jax.plan import hlo
from rrft_jax.plan.programs import Program, bytes_a_device, programs
from rrft_jax.settings import Config

STEPS = {  # stage -> part of a step -> the programs that take the time of the part
    "sft": {"update": {"sft"}},
    "grpo": {
        "sample": {"prefill", "layer", "ends", "grow", "decode"},
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

    @property
    def pieces(self) -> dict[str, float]:
        """The sizes of everything that lies on the device at once, by its role."""
        new = {k: self.memory[k] for k in ("outputs", "temporaries")} if self.memory else {}
        return {**self.arguments, **self.held, **new}

    def seconds(self, limits: Limits) -> dict[str, float]:
        """Return the least time of its operations, memory traffic and collectives, each alone."""
        return {
            "compute": self.cost.flops / limits.flops,
            "memory": self.cost.bytes / limits.bandwidth,
            "network": self.cost.sent / limits.network,
        }


@dataclasses.dataclass
class Plan:
    """The programs of a config on a mesh, measured; `limits` are None if they aren't known."""

    config: Config
    sizes: VLMConfig
    mesh: jax.sharding.Mesh
    shape: Shape
    limits: Limits | None
    parts: list[Part]

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
    def fits(self) -> bool | None:
        """True if every program fits the device; None if the device's memory isn't known."""
        if any(part.memory is None for part in self.parts):
            return False
        return None if self.spare is None else self.spare >= 0

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
      UserError: the mesh can't split a batch.
    """
    parts = []
    for program in programs(config, sizes, mesh, shape):
        if not only or program.name in only:
            say(f"compiling {program.name}")
            parts.append(_measure(program))
            if parts[-1].memory is None:
                break  # the next program needs the outputs of this one
    return Plan(config, sizes, mesh, shape, limits, parts)


def _measure(program: Program) -> Part:
    arguments, held = (
        {name: bytes_a_device(tree) for name, tree in trees.items() if tree is not None}
        for trees in (program.arguments, program.held)
    )
    started = time.perf_counter()
    try:
        compiled = program.compiled
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Part(program.name, None, arguments, held, sum(held.values()) + _used(str(error)))
    seconds = time.perf_counter() - started
    used = compiled.memory_analysis()
    memory = {
        "arguments": used.argument_size_in_bytes,
        "outputs": used.output_size_in_bytes - used.alias_size_in_bytes,
        "aliased": used.alias_size_in_bytes,
        "temporaries": used.temp_size_in_bytes,
    }
    needed = sum(held.values()) + sum(memory.values()) - memory["aliased"]
    cost = hlo.cost(compiled.as_text(), program.branch).times(program.times)
    return Part(program.name, memory, arguments, held, needed, cost, seconds)


def _used(message: str) -> float:
    """Return the bytes that a program would have needed, read from the compiler's error."""
    found = re.search(r"(?:Used|required[^(]*\() ?([\d.]+)([KMGT])", message)
    return float(found[1]) * 1024 ** (1 + "KMGT".index(found[2])) if found else float("inf")


def advice(plan: Plan) -> str:
    """Return the setting to change first for more room: one that shrinks the largest piece."""
    config, mesh, text, peak = plan.config, plan.mesh.shape, plan.sizes.text, plan.peak
    prefix = "sft" if peak.name == "sft" else "grpo"
    stage = config.stage(prefix)
    rows = sharding.one_row_each(plan.mesh, stage.batch_size // stage.mini_batches)
    pieces = peak.pieces
    largest = max(pieces, key=pieces.get)
    split = mesh["tensor"] * 2
    more_tensor = (
        f"mesh.tensor={split}" if text.kv_heads % split == 0 and mesh["fsdp"] % 2 == 0 else ""
    )
    more_fsdp = f"mesh.data=1, mesh.fsdp={mesh['data'] * mesh['fsdp']}" if mesh["data"] > 1 else ""
    moments = "" if stage.moment_dtype == "bfloat16" else f"{prefix}.moment_dtype=bfloat16"
    weights = "" if config.model.dtype == "bfloat16" else "model.dtype=bfloat16"
    smaller = prefix == "grpo" and stage.beta and stage.reference_dtype != "int8"
    reference = "grpo.reference_dtype=int8" if smaller else ""
    micro = f"{prefix}.micro_batches=0" if 0 < stage.micro_batches < rows else ""
    remat = "" if config.model.remat == "full" else "model.remat=full"
    cache = "sampling.cache_chunk=128" if config.sampling.cache_chunk > 128 else ""
    choices = {
        "temporaries": [micro, remat, more_fsdp, more_tensor, moments, weights],
        "optimizer": [more_fsdp, moments],
        "parameters": [more_fsdp, moments, weights],
        "reference": [more_fsdp, reference],
        "outputs": [more_tensor, cache],
        "sampler's weights": [more_tensor],
        "caches": [cache],
    }.get(largest, [])
    return next(
        filter(None, [*choices, more_fsdp, more_tensor, moments, reference, weights]),
        "a larger slice",
    )


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan for JSON; sizes in bytes a device, times in seconds."""
    known = plan.limits is not None
    stages = [stage for stage in plan.config.stages if known and plan.seconds(stage)]
    return {
        "devices": plan.mesh.size,
        "device": plan.mesh.devices.flat[0].device_kind,
        "mesh": dict(plan.mesh.shape),
        "assumed": assumed(plan.config, plan.shape),
        "capacity": plan.limits.memory if known else None,
        "programs": {
            part.name: {
                "memory": part.memory,
                "arguments": part.arguments,
                "held": part.held,
                "needed": part.needed,
                "compile_seconds": round(part.compile_seconds, 1),
                **(_cost_dict(part, plan.limits) if part.cost else {}),
            }
            for part in plan.parts
        },
        "fits": plan.fits,
        "spare": plan.spare,
        "peak": plan.peak.name,
        "first_to_change": advice(plan),
        "seconds_at_least": {stage: plan.seconds(stage) for stage in stages},
    }


def _cost_dict(part: Part, limits: Limits | None) -> dict[str, Any]:
    return {
        "flops": part.cost.flops,
        "bytes": part.cost.bytes,
        "collectives": dict(part.cost.collectives),
        "bytes_sent": part.cost.sent,
        "seconds_at_least": part.seconds(limits) if limits else None,
    }


def assumed(config: Config, shape: Shape) -> dict[str, int]:
    """Return the sizes that the programs were compiled for."""
    sizes = {"prompt_tokens": shape.prompt, "patches": shape.patches}
    if "sft" in config.stages:
        sizes |= {"sft_batch": config.sft.batch_size, "target_tokens": shape.target}
    if "grpo" in config.stages:
        sizes |= {
            "grpo_batch": config.grpo.batch_size,
            "samples": config.grpo.num_generations,
            "new_tokens": config.sampling.max_new_tokens,
        }
    return sizes


def as_text(plan: Plan) -> str:
    """Return the tables of memory and cost, and the verdict."""
    sizes = assumed(plan.config, plan.shape).items()
    names = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in sizes)
    shape = ", ".join(f"{axis} {n}" for axis, n in plan.mesh.shape.items())
    kind = plan.mesh.devices.flat[0].device_kind
    memory = ("GiB a device", "arguments", "outputs", "temporaries", "held", "sum", "written over")
    blocks = [
        f"{plan.mesh.size} x {kind}; mesh: {shape}\nassumed: {names}",
        "\n".join(aligned([memory, *map(_memory_row, plan.parts)])),
    ]
    measured = [part for part in plan.parts if part.cost]
    if measured:
        header = ("a device", "TFLOP", "GB moved", "GB sent", "collectives, GB")
        more = ("seconds at least", "bound by") if plan.limits else ()
        rows = [(*header, *more), *(_cost_row(part, plan.limits) for part in measured)]
        blocks.append("\n".join(aligned(rows)))
    return "\n\n".join([*blocks, verdict(plan)])


def verdict(plan: Plan) -> str:
    """Return the verdict: the fit, the largest pieces, the setting to change first, the times."""
    peak = plan.peak
    pieces = sorted(peak.pieces.items(), key=lambda item: -item[1])[:3]
    most = ", ".join(f"{name} {size / GIB:.1f}" for name, size in pieces)
    if plan.fits is None:
        line = f"{peak.needed / GIB:.2f} GiB are needed; what the device has isn't known"
    elif plan.fits:
        line = f"fits with {plan.spare / GIB:.2f} GiB to spare"
    else:
        line = f"doesn't fit: {-plan.spare / GIB:.2f} GiB are missing"
    lines = [f"verdict: {line}; most is needed in {peak.name} (GiB: {most})"]
    lines.append(f"for more room change first: {advice(plan)}")
    for stage in plan.config.stages:
        if plan.limits and (steps := plan.seconds(stage)):
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in steps.items())
            lines.append(f"a step of {stage} takes at least {sum(steps.values()):.2f} s ({parts})")
    return "\n".join(lines)


def _memory_row(part: Part) -> tuple[str, ...]:
    held = sum(part.held.values())
    if part.memory is None:
        return (part.name, "-", "-", "-", _gib(held), f"{_gib(part.needed)}, too much", "-")
    kinds = [_gib(part.memory[kind]) for kind in ("arguments", "outputs", "temporaries")]
    return (part.name, *kinds, _gib(held), _gib(part.needed), _gib(part.memory["aliased"]))


def _cost_row(part: Part, limits: Limits | None) -> tuple[str, ...]:
    cost = part.cost
    kinds = ", ".join(
        f"{kind} {size / 1e9:.2f}" for kind, size in cost.collectives.most_common() if size > 5e6
    )
    numbers = (cost.flops / 1e12, cost.bytes / 1e9, cost.sent / 1e9)
    row = (part.name, *(f"{number:,.2f}" for number in numbers), kinds or "-")
    if limits is None:
        return row
    seconds = part.seconds(limits)
    slowest = max(seconds, key=seconds.get)
    return (*row, f"{seconds[slowest]:.3f}", slowest)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
