"""A search for settings with which a config fits a slice: few compilations, the likeliest first.

Some sizes are known before a compilation: those of weights, optimizer, reference, gradients, the
inputs of layers, and the sampler's gathered weights and caches. Their sum is the least that a
candidate needs. A candidate is not compiled if this sum is too large. It is not compiled either if
the sum is too large together with the extra bytes that an earlier candidate needed whose weights
had the same dtype.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from rrft_jax.data.shapes import Shape
from rrft_jax.errors import UserError
from rrft_jax.fields import replaced
from rrft_jax.models import layout
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel.devices import GIB, Limits
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import measure, programs, report
from rrft_jax.settings import Config

Found = list[tuple[dict[str, Any], measure.Plan]]


def search(
    config: Config,
    sizes: VLMConfig,
    devices: Sequence[jax.Device],
    shape: Shape,
    limits: Limits | None,
    tries: int,
    say: Callable[[str], None],
) -> Found:
    """Compile up to `tries` candidates, and return (changes, plan) of each.

    Candidates that fit come first, the fastest before the others. Then come the candidates that
    don't fit, the nearest miss first.

    Args:
      config: the config of a run.
      sizes: the sizes of its model.
      devices: the devices of the slice.
      shape: the shape of its batches.
      limits: the limits of a device.
      tries: the greatest number of candidates to compile.
      say: a function that is called with lines on the search's progress.

    Raises:
      UserError: the device's memory isn't known, or no candidate can fit.
    """
    if limits is None or limits.memory is None:
        raise UserError(f"--search: the memory of a {devices[0].device_kind} isn't known")
    possible, bounds = [], []
    for changes in candidates(config, sizes, len(devices)):
        changed = replaced(config, changes)
        try:
            mesh = make_mesh(**changed.mesh.axes, devices=devices)
            layout.check(sizes, mesh)
        except UserError:  # a run would refuse this mesh
            continue
        least = lower_bound(changed, sizes, mesh, shape)
        bounds.append((least, describe(changes)))
        if least <= limits.memory:
            possible.append((changes, changed, mesh, least))
    if not bounds:
        raise UserError(
            f"--search: no mesh of {len(devices)} devices: expected batch_size to be a multiple of "
            f"mini_batches x mesh.fsdp, and mesh.tensor a divisor of {sizes.text.kv_heads}"
        )
    if not possible:
        least, settings = min(bounds)
        raise UserError(
            f"--search: nothing fits {len(devices)} devices of {limits.memory / GIB:.1f} GiB: "
            f"weights, optimizer, reference and caches alone are {least / GIB:.1f} at least, with "
            f"{settings}; take {'more GPUs' if limits.whole else 'a larger slice'}"
        )
    say(f"{len(possible)} of {len(bounds)} candidates may fit by their weights and caches")
    found: Found = []
    beyond: dict[
        tuple[str, str], float
    ] = {}  # dtypes of the weights -> bytes needed beyond the lower bound
    for changes, changed, mesh, least in possible:
        if len(found) == tries:
            say(f"there are more than were tried: --tries={tries}")
            break
        dtypes = changed.model.dtype, changed.lora.base_dtype
        if least + beyond.get(dtypes, 0) > limits.memory:
            say(f"left out, as likely as not too large: {describe(changes)}")
            continue
        say(f"trying {describe(changes)}")
        plan = measure.make_plan(changed, sizes, mesh, shape, limits, say=say)
        if math.isfinite(extra := plan.peak.needed - least):
            beyond[dtypes] = min(extra, beyond.get(dtypes, extra))
        found.append((changes, plan))
        say(report.verdict(plan).splitlines()[0])
    return sorted(found, key=_rank)


def _rank(one: tuple[dict[str, Any], measure.Plan]) -> tuple[bool, float]:
    plan = one[1]
    return (False, total_seconds(plan)) if plan.fits else (True, -plan.spare)


def candidates(config: Config, sizes: VLMConfig, number: int) -> Iterator[dict[str, Any]]:
    """Yield settings by name, in order of their effect on the training and its speed, least first.

    A key/value head is never split, and the mesh must divide the batch.
    """
    stages = [config.stage(stage) for stage in config.stages]
    references = [{}]  # without a reference of its own
    if config.lora.rank:
        kinds = dict.fromkeys([config.lora.base_dtype, "int8"])
        weights = [{"lora.base_dtype": kind} for kind in kinds]
    else:
        kinds = dict.fromkeys([config.model.dtype, "bfloat16"])
        weights = [{"model.dtype": kind} for kind in kinds]
        if "grpo" in config.stages and config.grpo.beta:
            kinds = dict.fromkeys([config.grpo.reference_dtype, "int8"])
            references = [{"grpo.reference_dtype": kind} for kind in kinds]
    moments = dict.fromkeys([stages[-1].moment_dtype, "bfloat16"])
    tensors = [n for n in range(1, number + 1) if number % n == 0 and sizes.text.kv_heads % n == 0]
    for weight, moment, reference, tensor in itertools.product(
        weights, moments, references, tensors
    ):
        fsdp = number // tensor
        if any(stage.batch_size % (fsdp * stage.mini_batches) for stage in stages):
            continue
        mesh = {"mesh.data": 1, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
        rows = {f"{stage}.micro_batches": 0 for stage in config.stages}
        dtypes = {f"{stage}.moment_dtype": moment for stage in config.stages}
        yield mesh | rows | weight | dtypes | reference


def lower_bound(
    config: Config,
    sizes: VLMConfig,
    mesh: jax.sharding.Mesh,
    shape: Shape,
) -> int:
    """Return the bytes a device that are needed whatever the compiler does."""
    model = programs.make_model(config, sizes, mesh)
    return max(
        sum(roles.values())
        for stage in config.stages
        for roles in programs.least_bytes(config, model, stage, shape).values()
    )


def total_seconds(plan: measure.Plan) -> float:
    """Return the least seconds of one step of every stage, in sum."""
    return sum(sum(plan.seconds(stage).values()) for stage in plan.config.stages)


def describe(changes: dict[str, Any]) -> str:
    """Return the changes as arguments of the command line."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())


def as_text(found: Found) -> str:
    """Return the settings and verdict of each candidate, and the report of the best one."""
    best, lines = found[0][1], []
    if not best.fits:
        lines = [f"nothing that was tried fits; the nearest misses {-best.spare / GIB:.2f} GiB:"]
    for changes, plan in found:
        line = report.verdict(plan).splitlines()[0].removeprefix("verdict: ")
        seconds = f"; {total_seconds(plan):.3g} s at least" if plan.fits else ""
        lines.append(f"{describe(changes)}\n    {line}{seconds}")
    return "\n".join([*lines, "", "the first of them:", report.as_text(best)])
