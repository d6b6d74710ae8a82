"""`Prompt`: a batch of prompts as the model reads it, in static shapes.

The data pipeline computes in NumPy everything that depends on a picture's size or on the text:
positions, and the picture of each patch. So nothing in a batch becomes a Python number inside jit.
"""

import flax
from jaxtyping import Bool, Float, Int

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


AXES = Prompt(  # the logical axes of each array, for `parallel/sharding.py`
    tokens="BP",
    mask="BP",
    positions=".BP",
    next_position="B",
    patches="BS.",
    patch_rows_cols="BS.",
    patch_image="BS",
)
