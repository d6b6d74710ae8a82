"""Short segments side by side: blocks of queries, each beside the keys of its neighbourhood.

If no segment has more than n patches, the keys that a block of n queries may see lie in its own
block and in the two around it:

    queries   | 0 0 1 1 | 1 2 2 2 | 3 3 3 3 |     the ids of segments, n = 4
    keys of the middle block: all three blocks, and its mask compares ids

So each query is compared with 3n keys, whatever the number of patches.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from rrft_jax.models.arrays import Array
from rrft_jax.models.layers import widened

NOTHING = -2  # the id of no patch


class Blocks(NamedTuple):
    """I blocks of n queries, with the keys and values that they may see."""

    q: Float[Array, "B I n H C"]
    k: Float[Array, "B I 3n H C"]
    v: Float[Array, "B I 3n H C"]
    mask: Bool[Array, "B I n 3n"]


def in_blocks(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    longest: int,
) -> Blocks:
    """Cut the patches into blocks of `longest`; the last one is padded."""
    batch, length = segments.shape
    pad = -length % longest

    def cut(x: Shaped[Array, "B S *_"], fill: int = 0) -> Shaped[Array, "B I n *_"]:
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        return x.reshape(batch, -1, longest, *x.shape[2:])

    def around(x: Shaped[Array, "B I n *_"], fill: int = 0) -> Shaped[Array, "B I m *_"]:
        x = jnp.pad(x, [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)

    ids = cut(segments, NOTHING)
    mask = ids[..., :, None] == around(ids, NOTHING)[..., None, :]
    # Widened, because the gradient of a key is a sum over the blocks that may see it.
    return Blocks(cut(q), around(cut(widened(k))), around(cut(widened(v))), mask)


def as_before(x: Float[Array, "B I n H C"], length: int) -> Float[Array, "B S H C"]:
    """Return the results of blocks as those of `length` patches."""
    return x.reshape(len(x), -1, *x.shape[3:])[:, :length]
