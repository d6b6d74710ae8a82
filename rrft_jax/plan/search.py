"""Looks for settings with which a config fits a slice: few compilations, the likeliest first.

What lies on a device whatever the compiler does is known beforehand: weights, optimizer, reference,
the sampler's gathered weights and its caches. What that leaves no room for is never compiled.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections

from rrft_jax.errors import UserError
from rrft_jax.models.config import Qwen2VLConfig
from rrft_jax.parallel.devices import GIB, Limits
from rrft_jax.parallel.mesh import axis_sizes, make_mesh
from rrft_jax.plan import programs, report
from rrft_jax.plan.programs import Shapes, bytes_a_device

Found = list[tuple[dict[str, Any], report.Plan]]


def search(
    config: ml_collections.ConfigDict,
    sizes: Qwen2VLConfig,
    devices: Sequence[jax.Device],
    shapes: Shapes,
    limits: Limits | None,
    tries: int,
    say: Callable[[str], None],
) -> Found:
    """(what was changed, its plan) of up to `tries` candidates: those that fit, then the fastest.

    Raises:
      UserError: the device's memory isn't known, or no candidate can fit.
    """
    if limits is None or limits.memory is None:
        raise UserError(f"--search: the memory of a {devices[0].device_kind} isn't known")
    possible = []
    for changes in candidates(config, sizes, len(devices)):
        changed = apply(config, changes)
        mesh = make_mesh(**axis_sizes(changed.mesh), devices=devices)
        least = lower_bound(changed, sizes, mesh, shapes)
        if least <= limits.memory:
            possible.append((changes, changed, mesh))
    if not possible:
        raise UserError(
            f"--search: nothing fits {len(devices)} devices of {limits.memory / GIB:.1f} GiB: "
            "weights, optimizer, reference and caches alone are more; take a larger slice"
        )
    say(f"{len(possible)} candidates may fit by their weights and caches")
    found: Found = []
    for changes, changed, mesh in possible[:tries]:
        say(f"trying {describe(changes)}")
        plan = report.make_plan(changed, sizes, mesh, shapes, limits, say=say)
        found.append((changes, plan))
        say(report.verdict(plan).splitlines()[0])
    return sorted(found, key=lambda one: (not one[1].fits, total_seconds(one[1])))


def candidates(
    config: ml_collections.ConfigDict, sizes: Qwen2VLConfig, number: int
) -> Iterator[dict[str, Any]]:
    """Settings by name, those first that change least of how a run trains and how fast it is.

    A key/value head is never split, and the batch must divide over the mesh.
    """
    stages = [config[stage] for stage in config.stages]
    moments = dict.fromkeys([stages[-1].moment_dtype, "bfloat16"])
    tensors = [n for n in range(1, number + 1) if number % n == 0 and sizes.text.kv_heads % n == 0]
    for moment, tensor in itertools.product(moments, tensors):
        fsdp = number // tensor
        if any(stage.batch_size % (fsdp * stage.get("mini_batches", 1)) for stage in stages):
            continue
        mesh = {"mesh.data": 1, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
        rows = {f"{stage}.micro_batches": 0 for stage in config.stages}
        yield mesh | rows | {f"{stage}.moment_dtype": moment for stage in config.stages}


def apply(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config with some fields changed."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    return changed


def lower_bound(
    config: ml_collections.ConfigDict,
    sizes: Qwen2VLConfig,
    mesh: jax.sharding.Mesh,
    shapes: Shapes,
) -> int:
    """Bytes a device that no compiler can do without."""
    model = programs.make_model(config, sizes, mesh)
    needed = []
    for stage in config.stages:
        state = programs.abstract_state(config, model, stage)
        held = bytes_a_device(state)
        # A gradient is as large as the first moment in float32.
        trained, _ = programs.states.split(state.params, config[stage].freeze)
        gradient = bytes_a_device(trained)
        if stage == "grpo":
            held += bytes_a_device(programs.abstract_reference(config, model) or {})
            needed.append(held + programs.sampler_bytes(config, model, shapes))
        needed.append(held + gradient)
    return max(needed)


def total_seconds(plan: report.Plan) -> float:
    """Of a step of each stage; endless where it doesn't fit."""
    if not plan.fits:
        return float("inf")
    return sum(sum(plan.seconds(stage).values()) for stage in plan.config.stages)


def describe(changes: dict[str, Any]) -> str:
    """As one writes them on a command line."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())


def as_text(found: Found) -> str:
    """A line for each, and the report of the best."""
    lines = []
    for changes, plan in found:
        line = report.verdict(plan).splitlines()[0].removeprefix("verdict: ")
        lines.append(f"{describe(changes)}\n    {line}; {total_seconds(plan):.2f} s at least")
    return "\n".join([*lines, "", "the first of them:", report.as_text(found[0][1])])
