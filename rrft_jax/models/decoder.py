"""The decoder: grouped-query attention with M-RoPE, layers scanned.

Two residual streams pass through the same layers: `prompt` [B,P,D] and `group` [B,G,T,D], the
completions of each prompt. Either may be absent, and what a layer does follows from what is there:

  prompt alone      prefill: the layer returns the prompt's keys and values
  prompt and group  training: completions attend to the prompt's keys and values too

A decoding step is `DecoderLayer.decode`: one token of each row over caches, which lie as
`decoding.py` reads them. There the layers are a plain loop over weights and caches of their own
(`VLM.decode`): a scan would cut each layer's cache out of the others, a copy at every token.
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from rrft_jax.models import attention, leaves, rotary
from rrft_jax.models.attention import decoding
from rrft_jax.models.config import TextConfig
from rrft_jax.models.layers import Dense, Embedding, product
from rrft_jax.models.remat import rematerialised


class KeyValues(NamedTuple):
    """Of all layers of a prefill both are [L,B,P,K,C]. Of one layer while decoding the prompts' are
    [B,K,C,P] and [B,K,P,C], the rows' own [R,K,C,T] and [R,K,T,C]."""

    keys: jax.Array
    values: jax.Array

    @property
    def length(self) -> int:
        """Tokens that there is room for in what decoding reads."""
        return self.values.shape[2]


@flax.struct.dataclass
class Step:
    """What every layer is told beside its streams.

    prompt_mask [B,P]; prompt_angles [B,P,C/2]; group_angles [B,1,T,C/2].
    """

    prompt_mask: jax.Array
    prompt_angles: jax.Array | None = None
    group_angles: jax.Array | None = None


class DecoderLayer(nn.Module):
    config: TextConfig
    dtype: Any
    kernels: attention.Kernels = attention.PLAIN

    def setup(self):
        c = self.config
        self.input_norm = c.norm(c.norm_eps, self.dtype)
        self.post_norm = c.norm(c.norm_eps, self.dtype)
        self.q = Dense(c.heads * c.head_size, self.dtype)
        self.k = Dense(c.kv_heads * c.head_size, self.dtype)
        self.v = Dense(c.kv_heads * c.head_size, self.dtype)
        self.o = Dense(c.width, self.dtype, bias=False)
        self.mlp = c.mlp(c.mlp_width, c.width, c.activation, c.mlp_bias, self.dtype)
        nn.share_scope(self, self.mlp)  # its weights are named as the layer's own

    def __call__(self, carry, step: Step):
        """One layer over both streams.

        Args:
          carry: (prompt [B,P,D], group [B,G,T,D] | None).
          step: see `Step`.

        Returns:
          (carry, this layer's keys and values of the prompt [B,P,K,C]).
        """
        prompt, group = carry
        q, k, v = self._project(prompt, step.prompt_angles)
        prompt_kv = KeyValues(k, v)
        attended = attention.causal(q, k, v, step.prompt_mask, self.kernels)
        prompt = self._residual(prompt, attended)
        if group is not None:
            q, k, v = self._project(group, step.group_angles)
            attended = attention.group(q, *prompt_kv, step.prompt_mask, k, v, self.kernels)
            group = self._residual(group, attended)
        return (prompt, group), prompt_kv

    def decode(self, x, angles, time, prompt_kv, prompt_mask, slots, own):
        """One token of each row through this layer.

        Args:
          x: [R,D].
          angles: [R,C/2].
          time: index of the token.
          prompt_kv, prompt_mask, slots: see `decoding.attend`.
          own: the rows' keys and values before that token.

        Returns:
          (x, `own` with this token).
        """
        q, k, v = self._project(x, angles)
        own = KeyValues(
            _write(own.keys, k[..., None], time, axis=3),
            _write(own.values, v[:, :, None], time, axis=2),
        )
        seen = jnp.arange(own.length) <= time
        return self._residual(
            x, decoding.attend(q, *prompt_kv, prompt_mask, *own, seen, slots)
        ), own

    def _project(self, x: jax.Array, angles: jax.Array):
        c, x = self.config, self.input_norm(x)
        q = self.q(x).reshape(*x.shape[:-1], c.heads, c.head_size)
        k = self.k(x).reshape(*x.shape[:-1], c.kv_heads, c.head_size)
        v = self.v(x).reshape(*x.shape[:-1], c.kv_heads, c.head_size)
        return rotary.rotate(q, angles), rotary.rotate(k, angles), v

    def _residual(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        x = x + self.o(attended.reshape(*x.shape[:-1], -1))
        return x + self.mlp(self.post_norm(x))


class Head(nn.Module):
    """The output projection [D,V] of a model that doesn't share it with the embedding."""

    config: TextConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        shape = (self.config.width, self.config.vocab_size)
        return self.param("kernel", nn.initializers.lecun_normal(), shape)


class Decoder(nn.Module):
    """Embedding, scanned layers, final norm, and the output head (tied or its own)."""

    config: TextConfig
    dtype: Any
    remat: str = "none"
    kernels: attention.Kernels = attention.PLAIN
    stored: bool = False  # in another form, some of the layers' weights (`leaves.py`)

    def setup(self):
        c = self.config
        layer = leaves.dequantized(DecoderLayer) if self.stored else DecoderLayer
        self.embed = Embedding(c.vocab_size, c.width, self.dtype)
        self.layers = nn.scan(
            rematerialised(layer, self.remat),  # outside, so that it keeps no layer made whole
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.depth,
        )(c, self.dtype, self.kernels)
        self.norm = c.norm(c.norm_eps, self.dtype)
        if not c.tied:
            self.head = Head(c)

    def __call__(self, prompt, group, step: Step):
        """Runs the layers.

        Returns:
          (prompt, group, prompt_kv): streams as in `DecoderLayer`, before the final norm; the
          prompt's keys and values of all layers [L,B,P,K,C].
        """
        (prompt, group), prompt_kv = self.layers((prompt, group), step)
        return prompt, group, prompt_kv

    def embed_tokens(self, tokens: jax.Array) -> jax.Array:
        return self.embed(tokens)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[...,D] before the final norm -> [...,V] float32."""
        weight = self.embed.embedding.T if self.config.tied else self.head()
        return product(self.norm(hidden), weight, jnp.float32)


def text_angles(config: TextConfig, positions: jax.Array) -> jax.Array:
    """[3,...] positions -> [...,C/2]."""
    return rotary.text_angles(positions, config.head_size, config.rope_theta, config.mrope_sections)


def _write(cache: jax.Array, new: jax.Array, time: jax.Array, axis: int) -> jax.Array:
    """Writes one token of each row into a cache, in place inside a loop."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), time, axis)
