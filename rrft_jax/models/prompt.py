"""`Prompt`: everything that the model needs to know of a batch of prompts, in static shapes.

Whatever depends on a picture's size or on the text (positions, which patch belongs to which
picture) is computed in NumPy by the data pipeline, so that nothing in a batch becomes a Python
number inside jit.
"""

import flax
import jax


@flax.struct.dataclass
class Prompt:
    """A batch of prompts. One row is one sample with all its images (none, one or many).

    Rows are padded on the left, so that the last token of every row, which predicts the first
    token of its completion, stands at index P-1. Patches are padded on the right.
    """

    tokens: jax.Array  # [B,P] int32
    mask: jax.Array  # [B,P] bool, False on padding
    positions: jax.Array  # [3,B,P] int32: time, row, column (M-RoPE)
    next_position: jax.Array  # [B] int32: the position of the first completion token, on all axes
    patches: jax.Array  # [B,S,1176] float32, normalised pixels; 2x2 blocks are contiguous
    patch_rows_cols: jax.Array  # [B,S,2] int32: where the patch lies in its picture
    patch_image: jax.Array  # [B,S] int32: which of the row's pictures; -1 pads


AXES = Prompt(  # of each array's axes, for `parallel/sharding.py`
    tokens="BP",
    mask="BP",
    positions=".BP",
    next_position="B",
    patches="BS.",
    patch_rows_cols="BS.",
    patch_image="BS",
)
