"""One table says where every array lives: a letter per axis, and the mesh axes of that letter.

An array is described by the letters of its axes: a prompt's tokens are "BP", the cache of the
completions "LBGTKC", the query projection of all layers "LDH". A mesh axis is used once per
array, by the first letter that asks for it: so "BPD" splits its batch over `data` and `fsdp` and
leaves D whole, while "LDH" splits D over `fsdp` and the heads over `tensor`. A dimension that the
mesh axes don't divide stays whole; where that would cost more than it may, `models/layout.py` says
so before anything is computed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LOGICAL_AXES = {
    "B": ("data", "fsdp"),  # prompts
    "R": ("data", "fsdp"),  # completions that are being sampled
    "D": ("fsdp",),  # width of the residual stream (a weight's other side)
    "H": ("tensor",),  # heads, alone or times their size
    "K": ("tensor",),  # key/value heads
    "F": ("tensor",),  # width of an MLP
    "V": ("tensor",),  # vocabulary
    "b": ("data",),  # prompts, and
    "v": ("fsdp", "tensor"),  # vocabulary, where log-probabilities are computed
}  # every other letter, and ".", is whole on each device


def spec(mesh: Mesh, letters: str, shape: tuple[int, ...]) -> PartitionSpec:
    """The partition of an array of this shape, whose axes have these letters."""
    used: set[str] = set()
    entries = []
    for letter, size in zip(letters, shape, strict=True):
        axes = tuple(a for a in LOGICAL_AXES.get(letter, ()) if a not in used and mesh.shape[a] > 1)
        parts = 1
        for axis in axes:
            parts *= mesh.shape[axis]
        if not axes or size % parts:
            entries.append(None)
            continue
        used.update(axes)
        entries.append(axes if len(axes) > 1 else axes[0])
    return PartitionSpec(*entries)


def parts(mesh: Mesh, letter: str, size: int) -> int:
    """Into how many parts an axis of this letter and size is split."""
    axes = spec(mesh, letter, (size,))[0] or ()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def sharding(mesh: Mesh, letters: str, shape: tuple[int, ...]) -> NamedSharding:
    return NamedSharding(mesh, spec(mesh, letters, shape))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, letters: str, mesh: Mesh | None) -> jax.Array:
    """Inside jit: pins the layout of an activation (a no-op without a mesh)."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(mesh, letters, x.shape))


def shard(mesh: Mesh, tree: Any, letters: Any) -> Any:
    """Puts host arrays on the mesh; `letters` is a tree of strings, one for each array.

    Each process gives the rows of B that `rows` says are its own, and has the others' as well then.
    """
    return jax.tree.map(lambda name, x: _global(mesh, name, x), letters, tree)


def rows(mesh: Mesh, batch: int) -> list[int]:
    """Which rows of a batch of all processes lie on devices of this one, in order."""
    where = sharding(mesh, "B", (batch,)).addressable_devices_indices_map((batch,))
    return sorted({row for (index,) in where.values() for row in range(batch)[index]})


def fetch(tree: Any) -> Any:
    """The inverse of `shard` for arrays whose first axis is B: this process's rows, on the host."""

    def own(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(own, tree)


def to_host0(x: jax.Array) -> np.ndarray | None:
    """An array on the host of the first process, None in the others; all must call it."""
    if not (x.is_fully_addressable or x.is_fully_replicated):
        x = _replicate(replicated(x.sharding.mesh))(x)
    if jax.process_index():
        return None
    # The array itself would keep what it gives for as long as it lives.
    parts = [shard.data for shard in x.addressable_shards]
    return np.asarray(jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts))


@functools.cache
def _replicate(where: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=where)


def _global(mesh: Mesh, letters: str, x: Any) -> jax.Array:
    x, shape = np.asarray(x), list(np.shape(x))
    if "B" in letters and jax.process_count() > 1:
        axis = letters.index("B")
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        shape[axis] = shape[axis] * parts // len(rows(mesh, parts))
    where = sharding(mesh, letters, tuple(shape))
    return jax.make_array_from_process_local_data(where, x, tuple(shape))


def one_row_each(mesh: Mesh | None, rows: int) -> int:
    """Into how many micro-batches rows are split so that a device has one of them at a time."""
    return rows if mesh is None else rows // parts(mesh, "B", rows)


def micro_batches(tree: Any, letters: Any, number: int) -> Any:
    """Splits the B axis of every array into `number` parts, stacked on a new first axis.

    Row i goes to part i % number, so that on a mesh every device splits its own rows and none
    travels.
    """

    def split(name: str, x: jax.Array) -> jax.Array:
        axis = name.index("B")
        shape = (*x.shape[:axis], x.shape[axis] // number, number, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis + 1, 0)

    return jax.tree.map(split, letters, tree)


def join_micro_batches(x: jax.Array) -> jax.Array:
    """The rows of `micro_batches` in their order again: [number,B/number,...] -> [B,...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(-1, *x.shape[2:])
