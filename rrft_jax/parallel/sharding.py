"""The sharding table: the logical axes of every array, and the mesh axes that split each of them.

A logical axis has one letter, and the letters of its axes describe an array. The tokens of prompts
are "BP", their keys of all layers "LBKCP", the query projections of all layers "LDH". An array uses
a mesh axis once, for the first of its logical axes that asks for it. So "BPD" splits its batch over
`data` and `fsdp` and leaves D whole, while "LDH" splits D over `fsdp` and the heads over `tensor`.
A dimension that the mesh axes don't divide stays whole. If that costs too much, `models/layout.py`
refuses the mesh before anything is computed.
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
    "R": ("data", "fsdp"),  # sequences in the sampler
    "D": ("fsdp",),  # width of the residual stream
    "H": ("tensor",),  # heads, or heads x head size
    "K": ("tensor",),  # key/value heads
    "F": ("tensor",),  # width of an MLP
    "V": ("tensor",),  # vocabulary
    "r": ("fsdp",),  # rank of an adapter
    "b": ("data",),  # prompts, in the computation of log-probabilities
    "v": ("fsdp", "tensor"),  # vocabulary, in the computation of log-probabilities
}  # a dimension with another letter, or ".", is whole on each device


def spec(mesh: Mesh, axes: str, shape: tuple[int, ...]) -> PartitionSpec:
    """Return the partition of an array of this shape with these logical axes."""
    used: set[str] = set()
    entries = []
    for axis, size in zip(axes, shape, strict=True):
        free = (a for a in LOGICAL_AXES.get(axis, ()) if a not in used and mesh.shape[a] > 1)
        over = tuple(free)
        if not over or size % math.prod(mesh.shape[a] for a in over):
            entries.append(None)
            continue
        used.update(over)
        entries.append(over if len(over) > 1 else over[0])
    return PartitionSpec(*entries)


def num_shards(mesh: Mesh, axis: str, size: int) -> int:
    """Return the number of shards that a logical axis of this size is split into."""
    over = spec(mesh, axis, (size,))[0] or ()
    return math.prod(mesh.shape[a] for a in ((over,) if isinstance(over, str) else over))


def sharding(mesh: Mesh, axes: str, shape: tuple[int, ...]) -> NamedSharding:
    """Return the sharding of an array of this shape with these logical axes."""
    return NamedSharding(mesh, spec(mesh, axes, shape))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, axes: str, mesh: Mesh | None) -> jax.Array:
    """Pin the layout of an activation inside `jax.jit`; without a mesh this does nothing."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(mesh, axes, x.shape))


def shard(mesh: Mesh, tree: Any, axes: Any) -> Any:
    """Put host arrays on the mesh.

    Each process gives its own rows of B (`local_rows`) and gets an array of all processes' rows.

    Args:
      mesh: the mesh.
      tree: a tree of NumPy arrays.
      axes: a tree of the same form, with the logical axes of each array.
    """
    return jax.tree.map(lambda own, x: _global(mesh, own, x), axes, tree)


def local_rows(mesh: Mesh, batch: int) -> list[int]:
    """Return the rows of a global batch that lie on devices of this process, in order."""
    where = sharding(mesh, "B", (batch,)).addressable_devices_indices_map((batch,))
    return sorted({row for (index,) in where.values() for row in range(batch)[index]})


def fetch(tree: Any) -> Any:
    """Return this process's rows of arrays whose first axis is B, on the host; undoes `shard`."""

    def local(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])

    return jax.tree.map(local, tree)


def to_host0(x: jax.Array) -> np.ndarray | None:
    """Return an array on the host of the first process, None on the others; all must call this."""
    if not (x.is_fully_addressable or x.is_fully_replicated):
        x = _replicate(replicated(x.sharding.mesh))(x)
    if jax.process_index():
        return None
    # `x` would keep its host copy for as long as it lives. So make the copy from a second array
    # on the same buffers.
    shards = [shard.data for shard in x.addressable_shards]
    return np.asarray(jax.make_array_from_single_device_arrays(x.shape, x.sharding, shards))


@functools.cache
def _replicate(where: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=where)


def _global(mesh: Mesh, axes: str, x: Any) -> jax.Array:
    x, shape = np.asarray(x), list(np.shape(x))
    if "B" in axes and jax.process_count() > 1:
        index = axes.index("B")
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        shape[index] = shape[index] * shards // len(local_rows(mesh, shards))
    where = sharding(mesh, axes, tuple(shape))
    return jax.make_array_from_process_local_data(where, x, tuple(shape))


def one_row_each(mesh: Mesh | None, rows: int) -> int:
    """Return the number of micro-batches that gives each device one row at a time."""
    return rows if mesh is None else rows // num_shards(mesh, "B", rows)


def micro_batches(tree: Any, axes: Any, number: int) -> Any:
    """Split the B axis of every array into `number` micro-batches, stacked on a new first axis.

    Row i goes to micro-batch i % number: on a mesh every device splits its own rows, and no row
    moves to another device.
    """

    def split(own: str, x: jax.Array) -> jax.Array:
        index = own.index("B")
        shape = (*x.shape[:index], x.shape[index] // number, number, *x.shape[index + 1 :])
        return jnp.moveaxis(x.reshape(shape), index + 1, 0)

    return jax.tree.map(split, axes, tree)


def micro_batch(tree: Any, axes: Any, number: int, index: jax.Array) -> Any:
    """Return one of the micro-batches of `micro_batches`, without a copy of the others."""

    def take(own: str, x: jax.Array) -> jax.Array:
        axis = own.index("B")
        shape = (*x.shape[:axis], x.shape[axis] // number, number, *x.shape[axis + 1 :])
        return jax.lax.dynamic_index_in_dim(x.reshape(shape), index, axis + 1, keepdims=False)

    return jax.tree.map(take, axes, tree)


def join_micro_batches(x: jax.Array) -> jax.Array:
    """Undo `micro_batches` for one array: [number,B/number,...] -> [B,...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(-1, *x.shape[2:])
