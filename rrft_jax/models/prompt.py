"""`Prompt`: a batch of prompts as the model reads it, in static shapes.

The data pipeline computes in NumPy everything that depends on a picture's size or on the text:
positions, and the picture of each patch. So nothing in a batch becomes a Python number inside jit.
"""

import flax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from rrft_jax.models.arrays import Array


@flax.struct.dataclass
class Prompt:
    """A batch of prompts. One row is one sample with all its pictures (none, one or many).

    Rows are padded on the left, so that the last token of every row, which predicts the first
    token of its completion, stands at index P-1. Patches are padded on the right.
    """

    tokens: Int[Array, "B P"]
    mask: Bool[Array, "B P"]  # False on padding
    positions: Int[Array, "axes=3 B P"]  # time, row, column (M-RoPE)
    next_position: Int[Array, " B"]  # position of the first completion token, on all axes
    patches: Float[Array, "B S values"]  # normalised pixels; 2x2 blocks are contiguous
    patch_rows_cols: Int[Array, "B S 2"]  # row and column of the patch in its picture
    patch_image: Int[Array, "B S"]  # index of the row's picture; -1 is padding

    @property
    def padding(self) -> Int[Array, " B"]:
        """The number of tokens of each row that are padding."""
        return jnp.sum(~self.mask, axis=1, dtype=jnp.int32)

    def tokens_first(self) -> "Prompt":
        """Return the same prompts with their padding on the right."""
        tokens, mask, positions = (
            turned(x, self.padding, axis)
            for x, axis in ((self.tokens, 1), (self.mask, 1), (self.positions, 2))
        )
        return self.replace(tokens=tokens, mask=mask, positions=positions)


def turned(x: Shaped[Array, "..."], shift: Int[Array, " B"], axis: int) -> Shaped[Array, "..."]:
    """Turn each row of prompts to the left, by its own number of places.

    Args:
      x: the prompts; `axis` is P, and the axis before it is B.
      shift: the number of places; a negative one turns to the right.
      axis: the axis to turn.
    """
    length = x.shape[axis]
    index = (jnp.arange(length) + shift[:, None]) % length
    shape = [1] * (axis - 1) + [*index.shape] + [1] * (x.ndim - axis - 1)
    return jnp.take_along_axis(x, index.reshape(shape), axis)


AXES = Prompt(  # the logical axes of each array, for `parallel/sharding.py`
    tokens="BP",
    mask="BP",
    positions=".BP",
    next_position="B",
    patches="BS.",
    patch_rows_cols="BS.",
    patch_image="BS",
)
