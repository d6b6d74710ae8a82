"""The layout of a model on a mesh: a check that sizes divide, and a description in a few lines.

    mesh: data 2 x fsdp 2 x tensor 2, 8 devices, 1 process
      B  batch                    data x fsdp  1/4 of its rows
      D  widths of the residuals  fsdp         128, 96 -> 64, 48
      K  key/value heads          tensor       2 -> 1

Axes have the letters of `parallel/sharding.py`. Parameters, optimizer and reference share a layout.
"""

import math
from collections.abc import Iterable, Iterator

import jax

from rrft_jax.errors import UserError
from rrft_jax.models import table
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import MESH_AXES, batch_shards, nearest

_NAMES = {
    "D": "widths of the residuals",
    "H": "heads",
    "K": "key/value heads",
    "F": "widths of the MLPs",
    "V": "vocabulary",
}


def check(config: VLMConfig, mesh: jax.sharding.Mesh) -> None:
    """Refuse a mesh that the model's sizes don't divide over.

    Two sizes may stay whole. The vocabulary is rarely a multiple of a power of two, and a whole
    vocabulary costs only memory. If there are fewer key/value heads than devices, they are repeated
    on several devices, because the query heads that share them are on several devices too.

    Raises:
      UserError: a size doesn't divide; the error names the first, and the nearest that work.
    """
    sizes = _sizes(config)
    for mesh_axis in ("fsdp", "tensor"):
        shards = mesh.shape[mesh_axis]
        split = {k: v for k, v in sizes.items() if mesh_axis in sharding.LOGICAL_AXES[k]}
        split.pop("V", None)
        for axis, named in split.items():
            for name, size in named.items():
                if not _divides(axis, size, shards):
                    works = nearest(shards, mesh.size, lambda n: _all_divide(split, n))  # noqa: B023
                    raise UserError(
                        f"--config.mesh.{mesh_axis}={shards}: {name} {size} is not a multiple of "
                        f"it; the nearest that works for this model: {works}"
                    )


def summary(config: VLMConfig, mesh: jax.sharding.Mesh) -> Iterator[str]:
    """Return the lines that a run prints at its start: one line for a single device."""
    shape = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in MESH_AXES)
    hosts = len({device.process_index for device in mesh.devices.flat})
    yield f"mesh: {shape}, {_number(mesh.size, 'device')}, {_number(hosts, 'process')}"
    if mesh.size == 1:
        return
    rows = [("B", "batch", "data x fsdp", f"1/{batch_shards(mesh)} of its rows")]
    for axis, named in _sizes(config).items():
        over = [a for a in sharding.LOGICAL_AXES[axis] if mesh.shape[a] > 1]
        shards = math.prod(mesh.shape[a] for a in over)
        whole = [size for size in named.values() if size % shards]
        sizes = dict.fromkeys(named.values())
        local = [size if size % shards else size // shards for size in sizes]
        note = f" ({whole[0]} is no multiple of {shards}: whole)" if whole else ""
        split = f"{_list(sizes)} -> {_list(local)}{note}"
        rows.append((axis, _NAMES[axis], " x ".join(over) or "-", split))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  " + "  ".join([*map(str.ljust, row[:3], widths), row[3]])


def every_parameter(config: VLMConfig, mesh: jax.sharding.Mesh) -> Iterator[str]:
    """Return a line per parameter: its axes, its shape, its shard's shape, the mesh axes."""
    for entry in table.entries(config):
        shape, axes = table.shape(entry, config), table.axes(entry)
        where = sharding.sharding(mesh, axes, shape)
        over = ", ".join(
            " x ".join([axis] if isinstance(axis, str) else axis or ["-"]) for axis in where.spec
        )
        local = where.shard_shape(shape)
        yield f"  {entry.path}  {axes} {_times(shape)} -> {_times(local)}  ({over})"


def _divides(axis: str, size: int, shards: int) -> bool:
    return not size % shards or (axis == "K" and not shards % size)


def _all_divide(sizes: dict[str, dict[str, int]], shards: int) -> bool:
    return all(_divides(axis, n, shards) for axis, named in sizes.items() for n in named.values())


def _sizes(config: VLMConfig) -> dict[str, dict[str, int]]:
    """Return for each logical axis its sizes in the model, by their names in an error."""
    text, vision = config.text, config.vision
    merged = vision.width * vision.merge_size**2
    return {
        "D": {"the decoder's width": text.width, "the vision tower's width": vision.width},
        "H": {"the decoder's heads": text.heads, "the vision tower's heads": vision.heads},
        "K": {"the decoder's key/value heads": text.kv_heads},
        "F": {
            "the decoder's MLP": text.mlp_width,
            "the vision tower's MLP": vision.mlp_width,
            "the merger's width": merged,
        },
        "V": {"the vocabulary": text.vocab_size},
    }


def _number(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _list(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
