"""The vision tower: patches of a row of pictures -> visual tokens for the decoder."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rrft_jax.models import attention, leaves, rotary
from rrft_jax.models.config import VisionConfig
from rrft_jax.models.layers import Dense
from rrft_jax.models.remat import rematerialised


class VisionBlock(nn.Module):
    """One pre-norm transformer block over patches, bidirectional inside a picture."""

    config: VisionConfig
    dtype: Any
    kernels: attention.Kernels = attention.PLAIN

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array, segments: jax.Array):
        """x [B,S,W], angles [B,S,C/2], segments [B,S] -> (x, None), as nn.scan wants it."""
        c = self.config
        heads = (*x.shape[:2], c.heads, c.head_size)
        q, k, v = jnp.split(
            _dense(3 * c.width, "qkv", self.dtype)(_norm("norm1", self.dtype)(x)), 3, -1
        )
        q, k = rotary.rotate(q.reshape(heads), angles), rotary.rotate(k.reshape(heads), angles)
        attended = attention.segment(q, k, v.reshape(heads), segments, self.kernels)
        x = x + _dense(c.width, "proj", self.dtype)(attended.reshape(x.shape))
        hidden = _dense(c.mlp_width, "fc1", self.dtype)(_norm("norm2", self.dtype)(x))
        hidden = hidden * jax.nn.sigmoid(1.702 * hidden)  # "quick" GELU
        return x + _dense(c.width, "fc2", self.dtype)(hidden), None


class Merger(nn.Module):
    """Four neighbouring patches -> one visual token."""

    config: VisionConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,S,W] -> [B,N,D] with N = S / merge_size^2."""
        c = self.config
        merged = c.width * c.merge_size**2
        x = _norm("norm", self.dtype)(x)
        x = x.reshape(x.shape[0], -1, merged)
        x = jax.nn.gelu(_dense(merged, "fc1", self.dtype)(x), approximate=False)
        return _dense(c.out_width, "fc2", self.dtype)(x)


class VisionTower(nn.Module):
    """Qwen2-VL's vision transformer (https://arxiv.org/abs/2409.12191), layers scanned."""

    config: VisionConfig
    dtype: Any
    remat: str = "none"
    kernels: attention.Kernels = attention.PLAIN
    in_parts: bool = False  # some of the blocks' weights, as in `leaves.py`

    @nn.compact
    def __call__(self, patches: jax.Array, rows_cols: jax.Array, segments: jax.Array) -> jax.Array:
        """patches [B,S,1176], rows_cols [B,S,2], segments [B,S] (-1 pads) -> [B,N,D]."""
        c = self.config
        x = _dense(c.width, "patch_embed", self.dtype, bias=False)(patches)
        block = leaves.dequantized(VisionBlock) if self.in_parts else VisionBlock
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


def _dense(width: int, name: str, dtype: Any, bias: bool = True) -> Dense:
    return Dense(width, dtype, bias, name=name)


def _norm(name: str, dtype: Any) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)
