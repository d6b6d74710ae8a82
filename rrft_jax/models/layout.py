"""How a model lies on a mesh: refused where a size doesn't divide, and told in a short table.

    mesh: data 2 x fsdp 2 x tensor 2, 8 devices, 1 process
      B  batch                    data x fsdp  1/4 of its rows
      D  widths of the residuals  fsdp         128, 96 -> 64, 48
      K  key/value heads          tensor       2 -> 1

The letters are those of `parallel/sharding.py`. Parameters, optimizer and reference have the same.
"""

import math
from collections.abc import Iterable, Iterator

import jax

from rrft_jax.errors import UserError
from rrft_jax.models import table
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import MESH_AXES, batch_parts, nearest

_NAMES = {
    "D": "widths of the residuals",
    "H": "heads",
    "K": "key/value heads",
    "F": "widths of the MLPs",
    "V": "vocabulary",
}


def check(config: VLMConfig, mesh: jax.sharding.Mesh) -> None:
    """Refuses a mesh that the model doesn't divide over.

    Two sizes may be left whole. The vocabulary: it costs memory and changes nothing else, and is
    rarely no multiple of a power of two. Key/value heads where there are fewer of them than
    devices: each is on several devices then, which is what sharing them among heads comes to.

    Raises:
      UserError: names the first size that doesn't divide, and the nearest that do.
    """
    sizes = _sizes(config)
    for axis in ("fsdp", "tensor"):
        parts = mesh.shape[axis]
        own = {k: v for k, v in sizes.items() if k != "V" and axis in sharding.LOGICAL_AXES[k]}
        for letter, named in own.items():
            for name, size in named.items():
                if not _divides(letter, size, parts):
                    works = nearest(
                        parts,
                        mesh.size,
                        lambda n: all(
                            _divides(letter, size, n)  # noqa: B023
                            for letter, named in own.items()  # noqa: B023
                            for size in named.values()
                        ),
                    )
                    raise UserError(
                        f"--config.mesh.{axis}={parts}: {name} {size} is not a multiple of it; "
                        f"the nearest that works for this model: {works}"
                    )


def summary(config: VLMConfig, mesh: jax.sharding.Mesh) -> Iterator[str]:
    """The lines that a run prints at its start; of one device a single one."""
    shape = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in MESH_AXES)
    hosts = len({device.process_index for device in mesh.devices.flat})
    yield f"mesh: {shape}, {_number(mesh.size, 'device')}, {_number(hosts, 'process')}"
    if mesh.size == 1:
        return
    rows = [("B", "batch", "data x fsdp", f"1/{batch_parts(mesh)} of its rows")]
    for letter, named in _sizes(config).items():
        axes = [axis for axis in sharding.LOGICAL_AXES[letter] if mesh.shape[axis] > 1]
        parts = math.prod(mesh.shape[axis] for axis in axes)
        whole = [size for size in named.values() if size % parts]
        sizes = dict.fromkeys(named.values())
        own = [size if size % parts else size // parts for size in sizes]
        note = f" ({whole[0]} is no multiple of {parts}: whole)" if whole else ""
        split = f"{_list(sizes)} -> {_list(own)}{note}"
        rows.append((letter, _NAMES[letter], " x ".join(axes) or "-", split))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  " + "  ".join([*map(str.ljust, row[:3], widths), row[3]])


def every_parameter(config: VLMConfig, mesh: jax.sharding.Mesh) -> Iterator[str]:
    """A line on each parameter: its letters, its shape, its part on a device, the axes of those."""
    for entry in table.entries(config):
        shape, letters = table.shape(entry, config), table.letters(entry)
        where = sharding.sharding(mesh, letters, shape)
        part = where.shard_shape(shape)
        axes = ", ".join(
            " x ".join([axis] if isinstance(axis, str) else axis or ["-"]) for axis in where.spec
        )
        yield f"  {entry.path}  {letters} {_times(shape)} -> {_times(part)}  ({axes})"


def _divides(letter: str, size: int, parts: int) -> bool:
    return not size % parts or (letter == "K" and not parts % size)


def _sizes(config: VLMConfig) -> dict[str, dict[str, int]]:
    """Letter -> the sizes that its axes have, by what an error calls them."""
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


def _number(count: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


def _list(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
