"""The vision tower: from the patches of a row of pictures to visual tokens for the decoder.

A tower with windows puts the patches of each window side by side, and its visual tokens back in
order at the end. So the cost of a block that sees windows grows with the number of patches.

A tower with deepstack keeps the outputs of the chosen blocks while one loop runs over all blocks.
They lie in slots of one array, and the other blocks write over a slot that nothing reads. So
nothing is kept for each block.
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
from rrft_jax.models.interpolation import PositionTable
from rrft_jax.models.layers import MLP, Dense, widened
from rrft_jax.models.remat import rematerialised
from rrft_jax.parallel.sharding import constrain

# How the parameters of a loop over layers lie: stacked on their first axis.
STACKED = {"variable_axes": {"params": 0, "adapter": 0}, "split_rngs": {"params": True}}


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
    ) -> Float[Array, "B S W"]:
        """Run the block.

        Args:
          x: the stream.
          places: see `Places`.
          whole: patches see their whole picture, not their window; None in a tower without windows.
        """
        c, angles = self.config, places.angles
        heads = (*x.shape[:2], c.heads, c.head_size)
        hidden = c.norm(c.norm_eps, self.dtype, name="norm1")(x)
        # Beside a `cond` XLA would gather the patches of all devices, and their gradients.
        hidden = constrain(hidden, "BSW", self.kernels.mesh)
        q, k, v = jnp.split(Dense(3 * c.width, self.dtype, name="qkv")(hidden), 3, -1)
        q, k = rotary.rotate(q.reshape(heads), angles), rotary.rotate(k.reshape(heads), angles)
        attended = self._attend(q, k, v.reshape(heads), places, whole)
        x = x + Dense(c.width, self.dtype, name="proj")(attended.reshape(x.shape))
        mlp = c.mlp(c.mlp_width, c.width, c.activation, c.mlp_bias, self.dtype)
        nn.share_scope(self, mlp)  # names its weights as the block's own
        return x + mlp(c.norm(c.norm_eps, self.dtype, name="norm2")(x))

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
        attended = jax.lax.cond(whole, in_pictures, in_windows, q, k, v)
        return constrain(attended, "BSHC", self.kernels.mesh)


class Merger(nn.Module):
    """A layer that merges a square of neighbouring patches into one visual token.

    Attributes:
      norm_after: the norm is over the merged patches, not over each patch.
    """

    config: VisionConfig
    dtype: Any
    norm_after: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B S W"]) -> Float[Array, "B N D"]:
        """Return N = S / merge_size^2 visual tokens of the decoder's width."""
        c = self.config
        norm = c.norm(c.norm_eps, self.dtype, name="norm")
        merged = x.shape[0], x.shape[1] // c.merge_size**2, c.merged_width
        x = norm(x.reshape(merged)) if self.norm_after else norm(x).reshape(merged)
        mlp = MLP(c.merged_width, c.out_width, "gelu", True, self.dtype)
        nn.share_scope(self, mlp)
        return mlp(x)


class VisionTower(nn.Module):
    """A vision transformer over patches, its blocks scanned, with mergers at the end."""

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
    ) -> tuple[Float[Array, "B N D"], Float[Array, "n B N D"] | None]:
        """Run the tower.

        Args:
          patches: flattened patches.
          rows_cols: the row and the column of each patch in its picture.
          segments: the picture of each patch; -1 is padding.

        Returns:
          (visual tokens, the features of deepstack if it has any).
        """
        c = self.config
        found = whole = None
        if c.window_side:
            merged = c.merge_size**2
            found = windows.find(rows_cols, segments, c.window_side, merged)
            patches, rows_cols, segments = (
                windows.arranged(x, found.order) for x in (patches, rows_cols, segments)
            )
            whole = np.isin(np.arange(c.depth), c.whole_blocks)
        x = Dense(c.width, self.dtype, c.patch_bias, name="patch_embed")(patches)
        if c.position_side:
            x += PositionTable(c.position_side, c.width, self.dtype, name="positions")(
                rows_cols, segments
            )
        angles = rotary.vision_angles(rows_cols, c.head_size)
        places = Places(angles, segments, found and found.ids)
        x, chosen = self._blocks(x, places, whole)
        visual = Merger(c, self.dtype, name="merger")(x)
        if found:
            visual = windows.arranged(widened(visual), found.places).astype(visual.dtype)
        return visual, None if chosen is None else self._deepstack(chosen)

    def _blocks(
        self, x: Float[Array, "B S W"], places: Places, whole: np.ndarray | None
    ) -> tuple[Float[Array, "B S W"], Float[Array, "n B S W"] | None]:
        """Return the output of the last block, and those of the blocks of `deepstack`."""
        c, kept, slots = self.config, None, None
        if count := len(c.deepstack):
            kept = jnp.zeros((count + 1, *x.shape), x.dtype)
            slots = np.full(c.depth, count)
            slots[list(c.deepstack)] = np.arange(count)

        def run(block: VisionBlock, carry, places: Places, whole, slot):
            x, kept = carry
            x = block(x, places, whole)
            if slot is not None:  # outside the block, or the backward pass would keep it for each
                kept = _written(kept, x, slot)
            return (x, kept), None

        block = self._stacked(VisionBlock)(c, self.dtype, self.kernels, name="blocks")
        (x, kept), _ = nn.scan(run, in_axes=(nn.broadcast, 0, 0), length=c.depth, **STACKED)(
            block, (x, kept), places, whole, slots
        )
        return x, kept if kept is None else kept[:-1]

    def _deepstack(self, chosen: Float[Array, "n B S W"]) -> Float[Array, "n B N D"]:
        """Return the features of the chosen blocks' outputs, each from a merger of its own."""
        merger = self._stacked(Merger)(self.config, self.dtype, norm_after=True, name="deepstack")
        run = nn.scan(lambda merger, carry, x: (carry, merger(x)), length=len(chosen), **STACKED)
        return run(merger, None, chosen)[1]

    def _stacked(self, layer: type[nn.Module]) -> type[nn.Module]:
        """Return the class of a layer for use in a loop over layers."""
        return rematerialised(leaves.dequantized(layer) if self.stored else layer, self.remat)


@jax.custom_vjp
def _written(
    kept: Float[Array, "slots B S W"], x: Float[Array, "B S W"], slot: Int[Array, ""]
) -> Float[Array, "slots B S W"]:
    """Write x into a slot that is written only once, or never read.

    Then the slot's old content has no gradient that anything reads, and the backward pass need not
    set it to zero, which would copy the slots for each block.
    """
    return jax.lax.dynamic_update_index_in_dim(kept, x, slot, 0)


def _written_forward(kept, x, slot):
    return _written(kept, x, slot), slot


def _written_backward(slot, gradient):
    return gradient, jax.lax.dynamic_index_in_dim(gradient, slot, keepdims=False), None


_written.defvjp(_written_forward, _written_backward)
