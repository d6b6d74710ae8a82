"""The vision tower: from the patches of a row of pictures to visual tokens for the decoder.

A tower with windows puts the patches of each window side by side, and its visual tokens back in
order at the end. So the cost of a block that sees windows grows with the number of patches.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Int

from rrft_jax.models import attention, leaves, rotary, windows
from rrft_jax.models.arrays import Array
from rrft_jax.models.config import VisionConfig
from rrft_jax.models.layers import MLP, Dense, widened
from rrft_jax.models.remat import rematerialised


@flax.struct.dataclass
class Places:
    """The inputs of every block besides its stream.

    Attributes:
      angles: the rotary angles [B,S,C/2] of the patches.
      pictures: [B,S] int, the picture of each patch; -1 is padding.
      windows: [B,S] int, the window of each patch; None if the tower has no windows.
    """

    angles: Array
    pictures: Array
    windows: Array | None = None


class VisionBlock(nn.Module):
    """One pre-norm transformer block over patches, bidirectional inside a picture or a window."""

    config: VisionConfig
    dtype: Any
    kernels: attention.Kernels = attention.PLAIN

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S W"],
        places: Places,
        whole: Bool[Array, ""] | None,
    ) -> tuple[Float[Array, "B S W"], None]:
        """Run the block.

        Args:
          x: the stream.
          places: see `Places`.
          whole: patches see their whole picture, not their window; None in a tower without windows.

        Returns:
          (the stream, None, which `nn.scan` expects).
        """
        c, angles = self.config, places.angles
        heads = (*x.shape[:2], c.heads, c.head_size)
        hidden = c.norm(c.norm_eps, self.dtype, name="norm1")(x)
        q, k, v = jnp.split(Dense(3 * c.width, self.dtype, name="qkv")(hidden), 3, -1)
        q, k = rotary.rotate(q.reshape(heads), angles), rotary.rotate(k.reshape(heads), angles)
        attended = self._attend(q, k, v.reshape(heads), places, whole)
        x = x + Dense(c.width, self.dtype, name="proj")(attended.reshape(x.shape))
        mlp = c.mlp(c.mlp_width, c.width, c.activation, c.mlp_bias, self.dtype)
        nn.share_scope(self, mlp)  # names its weights as the block's own
        return x + mlp(c.norm(c.norm_eps, self.dtype, name="norm2")(x)), None

    def _attend(
        self,
        q: Float[Array, "B S H C"],
        k: Float[Array, "B S H C"],
        v: Float[Array, "B S H C"],
        places: Places,
        whole: Bool[Array, ""] | None,
    ) -> Float[Array, "B S H C"]:
        longest = self.config.window_side**2

        def in_pictures(q: Array, k: Array, v: Array) -> Array:
            return attention.segment(q, k, v, places.pictures, self.kernels)

        def in_windows(q: Array, k: Array, v: Array) -> Array:
            return attention.segment(q, k, v, places.windows, self.kernels, longest)

        if whole is None:
            return in_pictures(q, k, v)
        return jax.lax.cond(whole, in_pictures, in_windows, q, k, v)


class Merger(nn.Module):
    """A layer that merges a square of neighbouring patches into one visual token."""

    config: VisionConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B S W"]) -> Float[Array, "B N D"]:
        """Return N = S / merge_size^2 visual tokens of the decoder's width."""
        c = self.config
        x = c.norm(c.norm_eps, self.dtype, name="norm")(x)
        x = x.reshape(x.shape[0], -1, c.merged_width)
        mlp = MLP(c.merged_width, c.out_width, "gelu", True, self.dtype)
        nn.share_scope(self, mlp)
        return mlp(x)


class VisionTower(nn.Module):
    """A vision transformer over patches, its blocks scanned, with a merger at the end."""

    config: VisionConfig
    dtype: Any
    remat: str = "none"
    kernels: attention.Kernels = attention.PLAIN
    stored: bool = False  # True if some of the blocks' weights have another form (`leaves.py`)

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B S values"],
        rows_cols: Int[Array, "B S 2"],
        segments: Int[Array, "B S"],
    ) -> Float[Array, "B N D"]:
        """Return the visual tokens of flattened patches; segment -1 is padding."""
        c = self.config
        found = whole = None
        if c.window_side:
            merged = c.merge_size**2
            found = windows.find(rows_cols, segments, c.window_side, merged)
            patches, rows_cols, segments = (
                windows.arranged(x, found.order) for x in (patches, rows_cols, segments)
            )
            whole = np.isin(np.arange(c.depth), c.whole_blocks)
        x = Dense(c.width, self.dtype, bias=False, name="patch_embed")(patches)
        block = leaves.dequantized(VisionBlock) if self.stored else VisionBlock
        blocks = nn.scan(
            rematerialised(block, self.remat),
            variable_axes={"params": 0, "adapter": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=c.depth,
        )
        angles = rotary.vision_angles(rows_cols, c.head_size)
        places = Places(angles, segments, found and found.ids)
        x, _ = blocks(c, self.dtype, self.kernels, name="blocks")(x, places, whole)
        visual = Merger(c, self.dtype, name="merger")(x)
        if found:
            visual = windows.arranged(widened(visual), found.places).astype(visual.dtype)
        return visual
