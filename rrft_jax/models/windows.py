"""The windows of pictures: which patches each holds, and an order in which they lie side by side.

Windows are squares of `side` patches, cut from the top left corner of each picture. Those at its
right and lower edge may be smaller. A picture of 4 x 6 patches with windows of 4 patches a side:

    0 0 0 0 1 1
    0 0 0 0 1 1
    0 0 0 0 1 1
    0 0 0 0 1 1

The squares of patches that become one visual token are never cut, so they are what is put in order.
Large windows come first. So whole windows begin at multiples of their size, where attention has the
least to do (`attention/neighbours.py`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, Shaped

from rrft_jax.models.arrays import Array


class Windows(NamedTuple):
    """The windows of a batch of rows of pictures.

    Attributes:
      order: for each place, the visual token that lies there when windows lie side by side.
      places: for each visual token, its place.
      ids: the window of each patch in that order; -1 is padding.
    """

    order: Int[Array, "B N"]
    places: Int[Array, "B N"]
    ids: Int[Array, "B S"]


def find(
    rows_cols: Int[Array, "B S 2"], pictures: Int[Array, "B S"], side: int, merged: int
) -> Windows:
    """Return the windows of patches.

    Args:
      rows_cols: the row and the column of each patch in its picture.
      pictures: the picture of each patch; -1 is padding.
      side: the side of a window in patches.
      merged: the number of patches of a visual token, which lie side by side.
    """
    windows = rows_cols[:, ::merged] // side
    own = pictures[:, ::merged]
    padding = own < 0
    keys = jnp.where(padding, jnp.iinfo(own.dtype).max, own), windows[..., 0], windows[..., 1]
    tokens = jnp.broadcast_to(jnp.arange(own.shape[1], dtype=own.dtype), own.shape)
    *keys, order = jax.lax.sort((*keys, tokens), num_keys=3)  # in the old order inside a window
    sizes = jnp.where(keys[0] == jnp.iinfo(own.dtype).max, 0, _runs(_differs(keys)))
    sizes, *keys, order = jax.lax.sort((-sizes, *keys, order), num_keys=4)
    _, places = jax.lax.sort((order, tokens), num_keys=1)
    ids = jnp.cumsum(_differs(keys), axis=1, dtype=own.dtype) - 1
    return Windows(order, places, jnp.repeat(jnp.where(sizes < 0, ids, -1), merged, axis=1))


def _differs(keys: list[Int[Array, "B N"]]) -> Bool[Array, "B N"]:
    """Return whether each token begins a window: whether it differs from the token before it."""
    differs = sum(key[:, 1:] != key[:, :-1] for key in keys) > 0
    return jnp.pad(differs, ((0, 0), (1, 0)), constant_values=True)


def _runs(begins: Bool[Array, "B N"]) -> Int[Array, "B N"]:
    """Return the length of the run that each place is in."""
    number = begins.shape[1]
    index = jnp.arange(number, dtype=jnp.int32)
    first = jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    ends = jnp.pad(begins[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    last = jax.lax.cummin(jnp.where(ends, index, number), axis=1, reverse=True)
    return last - first + 1


def arranged(x: Shaped[Array, "B S *_"], order: Int[Array, "B N"]) -> Shaped[Array, "B S *_"]:
    """Return patches in another order of their visual tokens."""
    tokens = x.reshape(*order.shape, -1)
    return jnp.take_along_axis(tokens, order[..., None], axis=1).reshape(x.shape)
