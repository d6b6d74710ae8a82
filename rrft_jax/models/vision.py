"""The vision tower: from the patches of a row of pictures to visual tokens for the decoder."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int

from rrft_jax.models import attention, leaves, rotary
from rrft_jax.models.arrays import Array
from rrft_jax.models.config import VisionConfig
from rrft_jax.models.layers import MLP, Dense
from rrft_jax.models.remat import rematerialised


class VisionBlock(nn.Module):
    """One pre-norm transformer block over patches, bidirectional inside a picture."""

    config: VisionConfig
    dtype: Any
    kernels: attention.Kernels = attention.PLAIN

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S W"],
        angles: Float[Array, "B S _"],
        segments: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B S W"], None]:
        """Run the block; None is the second result that `nn.scan` expects."""
        c = self.config
        heads = (*x.shape[:2], c.heads, c.head_size)
        hidden = c.norm(c.norm_eps, self.dtype, name="norm1")(x)
        q, k, v = jnp.split(Dense(3 * c.width, self.dtype, name="qkv")(hidden), 3, -1)
        q, k = rotary.rotate(q.reshape(heads), angles), rotary.rotate(k.reshape(heads), angles)
        attended = attention.segment(q, k, v.reshape(heads), segments, self.kernels)
        x = x + Dense(c.width, self.dtype, name="proj")(attended.reshape(x.shape))
        mlp = c.mlp(c.mlp_width, c.width, c.activation, c.mlp_bias, self.dtype)
        nn.share_scope(self, mlp)  # names its weights as the block's own
        return x + mlp(c.norm(c.norm_eps, self.dtype, name="norm2")(x)), None


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
        x = Dense(c.width, self.dtype, bias=False, name="patch_embed")(patches)
        block = leaves.dequantized(VisionBlock) if self.stored else VisionBlock
        blocks = nn.scan(
            rematerialised(block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.depth,
        )
        angles = rotary.vision_angles(rows_cols, c.head_size)
        x, _ = blocks(c, self.dtype, self.kernels, name="blocks")(x, angles, segments)
        return Merger(c, self.dtype, name="merger")(x)
