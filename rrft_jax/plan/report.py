"""The report of a plan: the verdict first, then tables of memory and cost, as text or JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax.data.shapes import Shape
from rrft_jax.data.stages import num_steps
from rrft_jax.markdown import aligned
from rrft_jax.parallel import gpus, sharding
from rrft_jax.parallel.devices import GIB, Limits
from rrft_jax.plan.measure import Part, Plan
from rrft_jax.settings import Config

# Column -> its meaning.
MEMORY = {
    "arguments": "what the program reads: parameters, optimizer, batch",
    "outputs": "what it returns, without what it writes over its arguments",
    "temporaries": "its work space",
    "held": "other arrays of the run that stay on the device meanwhile",
    "sum": "all of these; the largest sum must fit the device",
    "written over": "outputs that take the place of arguments, and need no memory of their own",
    "compiled in, s": "seconds of its compilation on this machine",
}
ESTIMATED = {"estimated": "cuDNN's work space, which the compiled program doesn't state"}
COST = {
    "TFLOP": "10^12 operations in matrix products and attention, in one step",
    "GB moved": "read from and written to the device's memory",
    "GB sent": "sent to other devices",
    "collectives, GB": "arriving from other devices, by kind of message",
}
BETWEEN = {"GB between": "of those sent, what NVLink doesn't carry"}
TIME = {
    "seconds at least": "of the slowest of operations, memory and messages, at the device's peak",
    "bound by": "which of them it is",
}


SHARE = 0.9  # of a GPU's memory that JAX may take; the rest is enough for CUDA's libraries


def advice(plan: Plan) -> str:
    """Return the setting to change first for more room: one that shrinks the largest piece."""
    config, mesh, text, peak = plan.config, plan.mesh.shape, plan.sizes.text, plan.peak
    prefix = "sft" if peak.name == "sft" else "grpo"
    stage = config.stage(prefix)
    rows = sharding.one_row_each(plan.mesh, stage.batch_size // stage.mini_batches)
    pieces = peak.pieces
    largest = max(pieces, key=pieces.get)
    split = mesh["tensor"] * 2
    connected = gpus.connected(plan.mesh.devices.flatten()) or split
    divides = text.kv_heads % split == 0 and mesh["fsdp"] % 2 == 0 and connected % split == 0
    more_tensor = f"mesh.tensor={split}" if divides else ""
    more_fsdp = f"mesh.data=1, mesh.fsdp={mesh['data'] * mesh['fsdp']}" if mesh["data"] > 1 else ""
    moments = "" if stage.moment_dtype == "bfloat16" else f"{prefix}.moment_dtype=bfloat16"
    weights, narrow = (
        ("lora.base_dtype=int8", config.lora.base_dtype == "int8")
        if config.lora.rank
        else ("model.dtype=bfloat16", config.model.dtype == "bfloat16")
    )
    weights = "" if narrow else weights
    penalty = prefix == "grpo" and stage.beta and not config.lora.rank
    smaller = penalty and stage.reference_dtype != "int8"
    reference = "grpo.reference_dtype=int8" if smaller else ""
    micro = f"{prefix}.micro_batches=0" if 0 < stage.micro_batches < rows else ""
    remat = "" if config.model.remat == "full" else "model.remat=full"
    if (limits := plan.limits) and limits.whole and limits.memory < SHARE * limits.whole:
        return f"{gpus.FRACTIONS[0]}={SHARE} in the environment"
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
        "more GPUs" if limits and limits.whole else "a larger slice",
    )


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan for JSON; sizes in bytes a device, times in seconds."""
    known = plan.limits is not None
    stages = [stage for stage in plan.config.stages if known and plan.seconds(stage)]
    return {
        "verdict": verdict(plan).splitlines(),
        "fits": plan.fits,
        "spare": plan.spare,
        "capacity": plan.limits.memory if known else None,
        "beside": {"left": plan.left, "estimated": plan.beside} if plan.beside else None,
        "devices": plan.mesh.size,
        "device": plan.mesh.devices.flat[0].device_kind,
        "peak": plan.peak.name,
        "first_to_change": advice(plan),
        "seconds_at_least": {stage: plan.seconds(stage) for stage in stages},
        "epochs": {stage: epoch(plan, stage) for stage in plan.samples},
        "compile_seconds": round(plan.compile_seconds, 1),
        "mesh": dict(plan.mesh.shape),
        "assumed": assumed(plan.config, plan.shape),
        "programs": {
            part.name: {
                "memory": part.memory,
                "arguments": part.arguments,
                "held": part.held,
                "estimated": part.estimated,
                "needed": part.needed,
                "compile_seconds": round(part.compile_seconds, 1),
                **(_cost_dict(part, plan.limits) if part.cost else {}),
            }
            for part in plan.parts
        },
        "columns": memory_columns(plan) | cost_columns(plan),
    }


def epoch(plan: Plan, stage: str) -> dict[str, Any]:
    """Return a stage's samples, the steps of an epoch and of the run, and their least hours."""
    section, samples = plan.config.stage(stage), plan.samples[stage]
    of_epoch = -(-samples // section.batch_size)
    of_run = num_steps(section, samples)
    found = {"samples": samples, "steps": of_epoch, "run_steps": of_run}
    if plan.limits and (parts := plan.seconds(stage)):
        hours = sum(parts.values()) / 3600
        found |= {"hours_at_least": of_epoch * hours, "run_hours_at_least": of_run * hours}
    return found


def _cost_dict(part: Part, limits: Limits | None) -> dict[str, Any]:
    return {
        "flops": part.cost.flops,
        "bytes": part.cost.bytes,
        "collectives": dict(part.cost.collectives),
        "bytes_sent": part.cost.sent,
        "bytes_between": part.cost.between,
        "uncounted": dict(part.cost.unknown),
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
    """Return the verdict, then the tables of memory and cost with a line about each column."""
    sizes = assumed(plan.config, plan.shape).items()
    names = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in sizes)
    shape = ", ".join(f"{axis} {n}" for axis, n in plan.mesh.shape.items())
    columns = memory_columns(plan)
    memory = [("GiB a device", *columns), *(_memory_row(part, columns) for part in plan.parts)]
    blocks = [verdict(plan), f"mesh: {shape}\nassumed: {names}", _table(memory, columns)]
    measured = [part for part in plan.parts if part.cost]
    if measured:
        columns = cost_columns(plan)
        rows = (_cost_row(part, plan.limits, columns) for part in measured)
        cost = [("a device", *columns), *rows]
        uncounted = filter(None, map(_uncounted_line, measured))
        blocks.append("\n".join([_table(cost, columns), *uncounted]))
    return "\n\n".join(blocks)


def memory_columns(plan: Plan) -> dict[str, str]:
    """Return the columns of the table of memory, with their meanings."""
    columns = list(MEMORY.items())
    if any(part.estimated for part in plan.parts):
        columns.insert(list(MEMORY).index("sum"), *ESTIMATED.items())
    return dict(columns)


def cost_columns(plan: Plan) -> dict[str, str]:
    """Return the columns of the table of cost, with their meanings."""
    columns = COST | (BETWEEN if _several_nodes(plan) else {})
    return columns | (TIME if plan.limits else {})


def _several_nodes(plan: Plan) -> bool:
    return any(part.cost and part.cost.between for part in plan.parts)


def verdict(plan: Plan) -> str:
    """Return the verdict: the fit, the largest pieces, the setting to change first, the times."""
    peak = plan.peak
    pieces = sorted(peak.pieces.items(), key=lambda item: -item[1])[:3]
    most = ", ".join(f"{name} {size / GIB:.1f}" for name, size in pieces)
    where = f"{plan.mesh.size} x {plan.mesh.devices.flat[0].device_kind}"
    if plan.fits is None:
        line = f"{where}: {peak.needed / GIB:.2f} GiB a device are needed; its memory isn't known"
    elif plan.starved:
        line = (
            f"doesn't fit {where}: JAX leaves {plan.left / GIB:.2f} GiB to CUDA's libraries, which "
            f"need about {sum(plan.beside.values()) / GIB:.2f}"
        )
    elif plan.fits:
        line = f"fits {where} with {plan.spare / GIB:.2f} GiB to spare on each"
    else:
        line = f"doesn't fit {where}: {-plan.spare / GIB:.2f} GiB are missing on each"
    if plan.limits and plan.limits.memory:
        line += f", of {plan.limits.memory / GIB:.2f}"
    lines = [f"verdict: {line}"]
    if plan.beside:
        lines.append(_beside_line(plan))
    lines.append(f"most is needed in {peak.name} (GiB: {most})")
    lines.append(f"for more room change first: {advice(plan)}")
    for stage in plan.config.stages:
        if plan.limits and (steps := plan.seconds(stage)):
            parts = ", ".join(f"{name} {seconds:.3g}" for name, seconds in steps.items())
            lines.append(f"a step of {stage} takes at least {sum(steps.values()):.3g} s ({parts})")
    if _several_nodes(plan):
        lines.append(
            f"between nodes a GPU is taken to send {plan.limits.between / 1e9:.0f} GB a second (an "
            "estimate)"
        )
    lines += [_epoch_line(stage, epoch(plan, stage)) for stage in plan.samples]
    lines.append(
        f"compiling took {plan.compile_seconds:.0f} s here, for one shape of batch; a run has "
        f"up to {plan.config.data.buckets} (data.buckets)"
    )
    return "\n".join(lines)


def _beside_line(plan: Plan) -> str:
    limits = plan.limits
    beside = ", ".join(f"{name} {size / GIB:.1f}" for name, size in plan.beside.items())
    return (
        f"JAX takes {limits.memory / limits.whole:.0%} of {limits.whole / GIB:.2f} GiB "
        f"({gpus.FRACTIONS[0]}); beside it lie {beside} (estimates)"
    )


def _epoch_line(stage: str, found: Mapping[str, Any]) -> str:
    steps, of_run = found["steps"], found["run_steps"]
    line = f"an epoch of {stage}, {found['samples']:,} samples in {steps:,} steps, "
    if "hours_at_least" not in found:
        return f"{line}takes a time that isn't known, because the device's speed isn't"
    line += f"takes at least {found['hours_at_least']:.3g} hours without its evaluations"
    if of_run == steps:
        return line
    return f"{line}; the run's {of_run:,} steps, {found['run_hours_at_least']:.3g}"


def _table(rows: Sequence[Sequence[str]], columns: Mapping[str, str]) -> str:
    width = max(map(len, columns))
    lines = [f"  {name:<{width}}  {meaning}" for name, meaning in columns.items()]
    return "\n".join([*aligned(rows), *lines])


def _memory_row(part: Part, columns: Mapping[str, str]) -> tuple[str, ...]:
    memory = part.memory or dict.fromkeys(("arguments", "outputs", "temporaries", "aliased"))
    cells = {
        **{kind: "-" if size is None else _gib(size) for kind, size in memory.items()},
        "held": _gib(sum(part.held.values())),
        "estimated": _gib(sum(part.estimated.values())),
        "sum": _gib(part.needed) if part.memory else f"{_gib(part.needed)}, too much",
        "compiled in, s": f"{part.compile_seconds:.1f}",
    }
    cells["written over"] = cells.pop("aliased")
    return (part.name, *(cells[name] for name in columns))


def _cost_row(part: Part, limits: Limits | None, columns: Mapping[str, str]) -> tuple[str, ...]:
    cost = part.cost
    kinds = ", ".join(
        f"{kind} {size / 1e9:.2f}" for kind, size in cost.collectives.most_common() if size > 5e6
    )
    cells = {
        "TFLOP": f"{cost.flops / 1e12:,.2f}",
        "GB moved": f"{cost.bytes / 1e9:,.2f}",
        "GB sent": f"{cost.sent / 1e9:,.2f}",
        "collectives, GB": kinds or "-",
        "GB between": f"{cost.between / 1e9:,.2f}",
    }
    if limits:
        seconds = part.seconds(limits)
        slowest = max(seconds, key=seconds.get)
        cells |= {"seconds at least": f"{seconds[slowest]:.3g}", "bound by": slowest}
    return (part.name, *(cells[name] for name in columns))


def _uncounted_line(part: Part) -> str:
    """Return a line that names what isn't counted; "" if everything is."""
    if not part.cost.unknown:
        return ""
    names = ", ".join(f"{n} x {name}" for name, n in part.cost.unknown.items())
    return (
        f"{part.name} costs more than this: a while whose limit isn't known counts once, and a "
        f"call of an unknown function has no operations ({names})"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
