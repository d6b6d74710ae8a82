"""Short segments side by side: blocks of queries, each beside the keys of its neighbourhood.

If no segment has more than n patches, the keys that a block of n queries may see lie in its own
block and in the two around it:

    queries   | 0 0 1 1 | 1 2 2 2 | 3 3 3 3 |     the ids of segments, n = 4
    keys of the middle block: all three blocks, and its mask compares ids

So each query is compared with 3n keys, whatever the number of patches. If no segment crosses an
edge of its block, as in the last one above, the n keys of the block are enough.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Int, Shaped

from rrft_jax.models.arrays import Array

NOTHING = -2  # the id of no patch


def in_chunks(
    x: Shaped[Array, "B S *_"], length: int, blocks: int, fill: int = 0
) -> Shaped[Array, "J B I n *_"]:
    """Cut patches into blocks of `length`, and these into chunks of `blocks`; pad the last one."""
    pad = -x.shape[1] % (length * blocks)
    x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
    return jnp.moveaxis(x.reshape(len(x), -1, blocks, length, *x.shape[2:]), 1, 0)


def beside(x: Shaped[Array, "J B I n *_"], fill: int = 0) -> Shaped[Array, "J B m n *_"]:
    """Return each chunk with the block before it and the block after it, m = I + 2."""
    none = jnp.full_like(x[:1, :, :1], fill)
    before = jnp.concatenate([none, x[:-1, :, -1:]])
    after = jnp.concatenate([x[1:, :, :1], none])
    return jnp.concatenate([before, x, after], axis=2)


def crossed(ids: Int[Array, "J B m n"]) -> Bool[Array, " J"]:
    """Return for each chunk whether a segment crosses an edge of one of its blocks."""
    last, first = ids[:, :, :-1, -1], ids[:, :, 1:, 0]
    return jnp.any((last == first) & (last >= 0), axis=(1, 2))


def around(x: Shaped[Array, "B m n *_"]) -> Shaped[Array, "BI o *_"]:
    """Return each block of a chunk between its neighbours: o = 3n keys."""
    return flat(jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2))


def own(x: Shaped[Array, "B m n *_"]) -> Shaped[Array, "BI n *_"]:
    """Return each block of a chunk without its neighbours."""
    return flat(x[:, 1:-1])


def flat(x: Shaped[Array, "B I n *_"]) -> Shaped[Array, "BI n *_"]:
    """Return blocks as a batch of their own."""
    return x.reshape(-1, *x.shape[2:])


def joined(x: Shaped[Array, "J BI n *_"], batch: int, length: int) -> Shaped[Array, "B S *_"]:
    """Return the results of blocks as those of `length` patches."""
    x = jnp.moveaxis(x.reshape(len(x), batch, -1, *x.shape[3:]), 0, 1)
    return x.reshape(batch, -1, *x.shape[3:])[:, :length]
