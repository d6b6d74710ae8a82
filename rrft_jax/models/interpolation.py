"""A learned table of positions, interpolated to the size of each picture.

The table has a fixed number of rows and columns, `side`. It is laid over a picture so that their
corners coincide. A patch between four of the table's positions has their bilinear mean.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Float32, Int

from rrft_jax.models.arrays import Array
from rrft_jax.models.layers import rounded


class PositionTable(nn.Module):
    """A table of `side` x `side` positions, row by row."""

    side: int
    width: int
    dtype: Any

    @nn.compact
    def __call__(
        self, rows_cols: Int[Array, "B S 2"], pictures: Int[Array, "B S"]
    ) -> Float[Array, "B S W"]:
        """Return the position of each patch; `pictures` has the picture of each."""
        shape = (self.side**2, self.width)
        table = self.param("embedding", nn.initializers.normal(0.02), shape)
        table = rounded(table, self.dtype)  # in float32, and so is its gradient, a sum over patches
        indices, weights = neighbours(rows_cols, sizes(rows_cols, pictures), self.side)
        mean = sum(
            jnp.take(table, indices[..., i], axis=0) * weights[..., i, None] for i in range(4)
        )
        return mean.astype(self.dtype)


def sizes(rows_cols: Int[Array, "B S 2"], pictures: Int[Array, "B S"]) -> Int[Array, "B S 2"]:
    """Return for each patch the numbers of rows and columns of its picture; -1 is padding."""
    count = pictures.shape[1]

    def of_row(rows_cols: Array, pictures: Array) -> Array:
        own = jnp.where(pictures < 0, count, pictures)
        return jax.ops.segment_max(rows_cols, own, count + 1)[own] + 1

    return jax.vmap(of_row)(rows_cols, pictures)


def neighbours(
    rows_cols: Int[Array, "*N 2"], sizes: Int[Array, "*#N 2"], side: int
) -> tuple[Int[Array, "*N 4"], Float32[Array, "*N 4"]]:
    """Return the four positions of the table around each patch, and their weights."""
    # A patch stands at rows_cols * last / steps in the table; whole numbers make this exact.
    last, steps = side - 1, jnp.maximum(sizes - 1, 1)
    before = rows_cols * last // steps
    after = jnp.minimum(before + 1, last)
    share = (rows_cols * last % steps).astype(jnp.float32) / steps  # of the position after
    (row, col), (next_row, next_col) = (jnp.moveaxis(x, -1, 0) for x in (before, after))
    down, right = jnp.moveaxis(share, -1, 0)
    up, left = 1 - down, 1 - right
    rows, columns = (row, row, next_row, next_row), (col, next_col, col, next_col)
    indices = jnp.stack([r * side + c for r, c in zip(rows, columns)], -1)
    weights = jnp.stack([up * left, up * right, down * left, down * right], -1)
    return indices, weights
