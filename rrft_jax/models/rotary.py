"""Rotary positions: two axes (row, column) for patches, three (time, row, column) for text.

M-RoPE gives each frequency of a head to one of the three axes: `sections` frequencies to each, one
axis behind the other, or interleaved. A text token has the same position on all axes, and there
M-RoPE is the usual rotary embedding.

    one behind the other, sections 3, 3, 2   time time time row row row column column
    interleaved, sections 3, 3, 2            time row column time row column time row
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from rrft_jax.models.arrays import Array

VISION_THETA = 10_000.0


def vision_angles(
    rows_cols: Int[Array, "*N 2"], head_size: int
) -> Float[Array, "*N {head_size//2}"]:
    """Return the angles of patches: half the frequencies turn with the row, half with the column.

    The head size C is a multiple of 4.
    """
    half = head_size // 2
    frequencies = VISION_THETA ** -(np.arange(0, half, 2, dtype=np.float32) / half)
    angles = rows_cols[..., None].astype(jnp.float32) * frequencies  # [...,2,C/4]
    return angles.reshape(*angles.shape[:-2], half)


def text_angles(
    positions: Int[Array, "axes=3 *N"],
    head_size: int,
    theta: float,
    sections: tuple[int, int, int],
    interleaved: bool,
) -> Float[Array, "*N {head_size//2}"]:
    """Return the angles of text tokens from their positions: time, row and column."""
    frequencies = theta ** -(np.arange(0, head_size, 2, dtype=np.float32) / head_size)
    axes = _axes(sections, interleaved)
    per_frequency = jnp.moveaxis(positions, 0, -1)[..., axes].astype(jnp.float32)
    return per_frequency * frequencies


def _axes(sections: tuple[int, int, int], interleaved: bool) -> np.ndarray:
    """Return for each frequency the axis whose position turns it."""
    if not interleaved:
        return np.repeat(np.arange(3), sections)
    axes = np.zeros(sum(sections), np.int64)  # time has what the two others leave
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes


def rotate(
    x: Float[Array, "*N heads C"], angles: Float[Array, "*#N C//2"]
) -> Float[Array, "*N heads C"]:
    """Rotate the pairs (i, i + C/2) of every head."""
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
