"""The uses of a parameter table: import, export, expected shapes and sharding.

Every family has its table in its own file (`models/families/`), written with `linear` and `norm`.
An entry is one array of ours. If its Hugging Face name holds `{layer}`, the layers of the tower are
stacked on axis 0. Hugging Face stores a linear map [out,in], we store it [in,out]; the patch
embedding is a Conv3d there and a matrix over flattened patches here.
"""

import jax
import numpy as np
from flax import traverse_util

from rrft_jax.models.config import Entry, VLMConfig
from rrft_jax.parallel import sharding

EMBEDDING, HEAD = "language/embed/embedding", "language/head/kernel"


def linear(
    path: str, name: str, sizes: str, axes: str, bias: bool = True, kind: str = "transpose"
) -> tuple[Entry, ...]:
    """Return the entries of a linear map.

    Args:
      path: its path in the tree of parameters.
      name: its Hugging Face name.
      sizes: the names of the sizes of (in, out).
      axes: the logical axes of (in, out).
      bias: it has a bias.
      kind: the transform of its kernel, see `Entry`.
    """
    names = tuple(sizes.split())
    kernel = Entry(f"{path}/kernel", f"{name}.weight", names, axes, kind)
    if not bias:
        return (kernel,)
    # A bias is split like the outputs that it is added to, but stays whole on the residual stream.
    over = axes[1] if axes[1] != "D" else "."
    return kernel, Entry(f"{path}/bias", f"{name}.bias", names[1:], over)


def norm(path: str, name: str, size: str, bias: bool = True) -> tuple[Entry, ...]:
    """Return the entries of a norm over an axis of this size."""
    scale = Entry(f"{path}/scale", f"{name}.weight", (size,), ".")
    return (scale, Entry(f"{path}/bias", f"{name}.bias", (size,), ".")) if bias else (scale,)


def entries(config: VLMConfig) -> tuple[Entry, ...]:
    """Return the table's entries that this model has: a tied head is no parameter of its own."""

    def exists(entry: Entry) -> bool:
        tied = config.text.tied and entry.path == HEAD
        return not tied and (not entry.stacked or _depth(entry, config) > 0)

    return tuple(filter(exists, config.table.entries))


def import_name(name: str, config: VLMConfig) -> str:
    """Return the table's name of an array that a file names, in today's way or as released."""
    for today, released in config.table.released:
        if name.startswith(released):
            return today + name.removeprefix(released)
    return name


def export_name(name: str, config: VLMConfig) -> str:
    """Return the released files' name of an array by its name in the table."""
    for today, released in config.table.released:
        if name.startswith(today):
            return released + name.removeprefix(today)
    return name


def hf_name(path: str, config: VLMConfig) -> str:
    """Return the table's Hugging Face name of the array at a path."""
    return next(entry.name for entry in config.table.entries if entry.path == path)


def names(entry: Entry, config: VLMConfig) -> list[str]:
    """Return the Hugging Face names of the entry's arrays, layer by layer."""
    if not entry.stacked:
        return [entry.name]
    return [entry.name.format(layer=layer) for layer in range(_depth(entry, config))]


def axes(entry: Entry) -> str:
    """Return the logical axes of our array, layers included."""
    return "L" * entry.stacked + entry.axes


def shape(entry: Entry, config: VLMConfig) -> tuple[int, ...]:
    """Return the shape of our array, layers included."""
    sizes = _sizes(entry, config)
    layers = (_depth(entry, config),) if entry.stacked else ()
    return layers + tuple(sizes[size] for size in entry.sizes)


def hf_shape(entry: Entry, config: VLMConfig) -> tuple[int, ...]:
    """Return the shape of one Hugging Face array of the entry."""
    one = shape(entry, config)[entry.stacked :]
    if entry.transform == "patches":
        v = config.vision
        return (one[1], v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    return one[::-1] if entry.transform == "transpose" else one


def from_hf(entry: Entry, array: np.ndarray) -> np.ndarray:
    """Return one layer of our array, a view where possible, from one Hugging Face array."""
    if entry.transform == "patches":
        array = array.reshape(len(array), -1)
    return array if entry.transform == "same" else array.T


def to_hf(entry: Entry, array: np.ndarray, config: VLMConfig) -> np.ndarray:
    """Return one contiguous Hugging Face array from one layer of our array."""
    array = array if entry.transform == "same" else array.T
    return np.ascontiguousarray(array).reshape(hf_shape(entry, config))


def parameter_shapes(config: VLMConfig) -> dict:
    """Return a tree like the parameters, of shapes."""
    return unflatten({e.path: shape(e, config) for e in entries(config)})


def parameter_axes(config: VLMConfig) -> dict:
    """Return a tree like the parameters, of logical axes ("LDH")."""
    return unflatten({e.path: axes(e) for e in entries(config)})


def parameter_shardings(config: VLMConfig, mesh: jax.sharding.Mesh) -> dict:
    """Return a tree like the parameters, of shardings."""
    return jax.tree.map(
        lambda axes, shape: sharding.sharding(mesh, axes, shape),
        parameter_axes(config),
        parameter_shapes(config),
    )


def unflatten(flat: dict) -> dict:
    """Nest a flat dict: {"vision/norm/scale": x} -> {"vision": {"norm": {"scale": x}}}."""
    return traverse_util.unflatten_dict(flat, sep="/")


def flatten(params: dict) -> dict:
    """Undo `unflatten`."""
    return traverse_util.flatten_dict(params, sep="/")


def _depth(entry: Entry, config: VLMConfig) -> int:
    """Return the number of layers that an entry's array holds."""
    if entry.path.startswith("vision/deepstack/"):
        return len(config.vision.deepstack)
    return config.vision.depth if entry.path.startswith("vision/") else config.text.depth


def _sizes(entry: Entry, config: VLMConfig) -> dict[str, int]:
    v, t = config.vision, config.text
    if entry.path.startswith("vision/"):
        return {
            "patch": v.patch_values,
            "positions": v.position_side**2,
            "W": v.width,
            "3W": 3 * v.width,
            "F": v.mlp_width,
            "merged": v.merged_width,
            "D": v.out_width,
        }
    return {
        "V": t.vocab_size,
        "D": t.width,
        "C": t.head_size,
        "HC": t.heads * t.head_size,
        "KC": t.kv_heads * t.head_size,
        "F": t.mlp_width,
    }
