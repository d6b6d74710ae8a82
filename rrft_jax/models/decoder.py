"""The decoder: grouped-query attention with M-RoPE, layers scanned.

Two residual streams pass through the same layers: `prompt` [B,P,D] and `group` [B,G,T,D], the
completions of each prompt:

  prompt alone      prefill: the layer returns the prompt's keys and values
  prompt and group  training: completions attend to the prompt's keys and values too

A decoding step is `DecoderLayer.decode`: one token of each sequence, over caches. There a plain
loop runs over the layers, each with its own weights and caches (`VLM.decode`). A scan would slice
each layer's cache out of a stacked array, which copies it at every token.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Float32, Int

from rrft_jax.models import attention, leaves, rotary
from rrft_jax.models.arrays import Array
from rrft_jax.models.attention import KeyValues, decoding
from rrft_jax.models.attention.decoding import Slots
from rrft_jax.models.config import TextConfig
from rrft_jax.models.layers import Dense, Embedding, product, widened
from rrft_jax.models.remat import rematerialised

Streams = tuple[Float[Array, "B P D"], Float[Array, "B G T D"] | None]  # prompts, completions


@flax.struct.dataclass
class Placeholders:
    """The tokens of prompts that stand for visual tokens.

    Attributes:
      found: [B,P] bool, True at a placeholder.
      index: [B,P] int, the visual token that a placeholder stands for; any elsewhere.
    """

    found: Array
    index: Array

    def taken(self, visual: Float[Array, "B N D"], others: Array | float) -> Float[Array, "B P D"]:
        """Return the visual tokens at their placeholders, and `others` at all other places."""
        placed = jnp.take_along_axis(widened(visual), self.index[..., None], axis=1)
        return jnp.where(self.found[..., None], placed.astype(visual.dtype), others)


@flax.struct.dataclass
class Step:
    """The inputs of every layer besides its streams.

    Attributes:
      prompt_mask: [B,P] bool, False on padding.
      prompt_angles: the rotary angles [B,P,C/2] of the prompts' tokens.
      group_angles: the rotary angles [B,1,T,C/2] of the completions' tokens.
      deepstack: the features [n,B,N,D] of visual tokens, of which layer i adds the i-th to the
        prompts; None if there are none.
      placeholders: the places of the features.
    """

    prompt_mask: Array
    prompt_angles: Array | None = None
    group_angles: Array | None = None
    deepstack: Array | None = None
    placeholders: Placeholders | None = None


@flax.struct.dataclass
class DecodeStep:
    """The inputs of every layer of a decoding step besides its stream and its caches.

    Attributes:
      slot: the place of the tokens in the caches, a scalar.
      seen: [T] or [R,T] bool, the places of its cache that a sequence attends to, with `slot`.
      angles: the token's rotary angles [R,C/2].
      prompt_mask: [B,P] bool, False on padding.
      slots: the slots of the sequences (`attention/decoding.py`); None if sequence r is in slot r.
    """

    slot: Array | int
    seen: Array
    angles: Array
    prompt_mask: Array
    slots: Slots | None = None


class DecoderLayer(nn.Module):
    config: TextConfig
    dtype: Any
    kernels: attention.Kernels = attention.PLAIN

    def setup(self):
        c = self.config
        self.input_norm = c.norm(c.norm_eps, self.dtype)
        self.post_norm = c.norm(c.norm_eps, self.dtype)
        self.q = Dense(c.heads * c.head_size, self.dtype, bias=c.qkv_bias)
        self.k = Dense(c.kv_heads * c.head_size, self.dtype, bias=c.qkv_bias)
        self.v = Dense(c.kv_heads * c.head_size, self.dtype, bias=c.qkv_bias)
        if c.qk_norm:
            self.q_norm = c.norm(c.norm_eps, self.dtype)
            self.k_norm = c.norm(c.norm_eps, self.dtype)
        self.o = Dense(c.width, self.dtype, bias=False)
        self.mlp = c.mlp(c.mlp_width, c.width, c.activation, c.mlp_bias, self.dtype)
        nn.share_scope(self, self.mlp)  # names its weights as the layer's own

    def __call__(
        self, carry: Streams, step: Step, layer: Int[Array, ""] | None = None
    ) -> tuple[Streams, KeyValues]:
        """Run one layer over both streams.

        Args:
          carry: the streams.
          step: see `Step`.
          layer: the layer's number; only `step.deepstack` needs it.

        Returns:
          (the streams, this layer's keys and values [B,P,K,C] of the prompts).
        """
        prompt, group = carry
        q, k, v = self._project(prompt, step.prompt_angles)
        prompt_kv = KeyValues(k, v)
        attended = attention.causal(q, k, v, step.prompt_mask, self.kernels)
        prompt = self._residual(prompt, attended)
        if step.deepstack is not None:
            prompt = _with_feature(prompt, layer, step)
        if group is not None:
            q, k, v = self._project(group, step.group_angles)
            attended = attention.group(
                q, prompt_kv, step.prompt_mask, KeyValues(k, v), self.kernels
            )
            group = self._residual(group, attended)
        return (prompt, group), prompt_kv

    def decode(
        self, x: Float[Array, "R D"], step: DecodeStep, prompt: KeyValues, own: KeyValues
    ) -> tuple[Float[Array, "R D"], KeyValues]:
        """Run one token of each sequence through this layer.

        Args:
          x: the stream.
          step: see `DecodeStep`.
          prompt: keys [B,K,C,P] and values [B,K,P,C] of the prompts.
          own: keys [R,K,C,T] and values [R,K,T,C] of the sequences.

        Returns:
          (the stream, `own` with this token).
        """
        q, k, v = self._project(x, step.angles)
        own = KeyValues(
            _write(own.keys, k[..., None], step.slot, axis=3),
            _write(own.values, v[:, :, None], step.slot, axis=2),
        )
        attended = decoding.attend(q, prompt, step.prompt_mask, own, step.seen, step.slots)
        return self._residual(x, attended), own

    def _project(
        self, x: Float[Array, "*N D"], angles: Float[Array, "..."]
    ) -> tuple[Float[Array, "*N H C"], Float[Array, "*N K C"], Float[Array, "*N K C"]]:
        """Return queries and keys, turned by their angles, and values."""
        c, x = self.config, self.input_norm(x)
        q = self.q(x).reshape(*x.shape[:-1], c.heads, c.head_size)
        k = self.k(x).reshape(*x.shape[:-1], c.kv_heads, c.head_size)
        v = self.v(x).reshape(*x.shape[:-1], c.kv_heads, c.head_size)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotary.rotate(q, angles), rotary.rotate(k, angles), v

    def _residual(
        self, x: Float[Array, "*N D"], attended: Float[Array, "*N H C"]
    ) -> Float[Array, "*N D"]:
        x = x + self.o(attended.reshape(*x.shape[:-1], -1))
        return x + self.mlp(self.post_norm(x))


class Head(nn.Module):
    """The output projection [D,V] of a model that doesn't share it with the embedding."""

    config: TextConfig

    @nn.compact
    def __call__(self) -> Float[Array, "D V"]:
        shape = (self.config.width, self.config.vocab_size)
        return self.param("kernel", nn.initializers.lecun_normal(), shape)


class Decoder(nn.Module):
    """Embedding, scanned layers, final norm, and the output head (tied or its own)."""

    config: TextConfig
    dtype: Any
    remat: str = "none"
    kernels: attention.Kernels = attention.PLAIN
    stored: bool = False  # True if some of the layers' weights have another form (`leaves.py`)

    def setup(self):
        c = self.config
        layer = leaves.dequantized(DecoderLayer) if self.stored else DecoderLayer
        self.embed = Embedding(c.vocab_size, c.width, self.dtype)
        self.layers = nn.scan(
            rematerialised(layer, self.remat),  # outermost, so that no dequantized layer is kept
            variable_axes={"params": 0, "adapter": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=c.depth,
        )(c, self.dtype, self.kernels)
        self.norm = c.norm(c.norm_eps, self.dtype)
        if not c.tied:
            self.head = Head(c)

    def __call__(
        self,
        prompt: Float[Array, "B P D"],
        group: Float[Array, "B G T D"] | None,
        step: Step,
    ) -> tuple[Float[Array, "B P D"], Float[Array, "B G T D"] | None, KeyValues]:
        """Run the layers over both streams.

        Returns:
          (both streams before the final norm, keys and values [L,B,P,K,C] of the prompts).
        """
        numbers = None if step.deepstack is None else np.arange(self.config.depth)
        (prompt, group), prompt_kv = self.layers((prompt, group), step, numbers)
        return prompt, group, prompt_kv

    def embed_tokens(self, tokens: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        """Return the rows of the embedding."""
        return self.embed(tokens)

    def logits(self, hidden: Float[Array, "*N D"]) -> Float32[Array, "*N V"]:
        """Return the logits of the stream before the final norm."""
        weight = self.embed.embedding.T if self.config.tied else self.head()
        return product(self.norm(hidden), weight, jnp.float32)


def text_angles(
    config: TextConfig, positions: Int[Array, "axes=3 *N"]
) -> Float[Array, "*N {config.head_size//2}"]:
    """Return the rotary angles of tokens at these positions."""
    sections, interleaved = config.mrope_sections, config.mrope_interleaved
    return rotary.text_angles(positions, config.head_size, config.rope_theta, sections, interleaved)


def _with_feature(
    prompt: Float[Array, "B P D"], layer: Int[Array, ""], step: Step
) -> Float[Array, "B P D"]:
    """Add the layer's feature to the prompts, if it has one."""

    def added(prompt: Array) -> Array:
        feature = jax.lax.dynamic_index_in_dim(step.deepstack, layer, keepdims=False)
        return prompt + step.placeholders.taken(feature, 0)

    return jax.lax.cond(layer < len(step.deepstack), added, lambda prompt: prompt, prompt)


def _write(
    cache: Float[Array, "R K _ _"],
    new: Float[Array, "R K _ _"],
    slot: Int[Array, ""] | int,
    axis: int,
) -> Float[Array, "R K _ _"]:
    """Write one token of each sequence into a cache, in place inside a loop."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), slot, axis)
