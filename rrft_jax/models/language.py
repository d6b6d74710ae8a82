"""The decoder: grouped-query attention with M-RoPE, layers scanned.

Two residual streams pass through the same layers: `prompt` [B,P,D] and `group` [B,G,T,D], the
completions of each prompt. Either may be absent, and what a layer does follows from what is there:

  prompt alone             prefill: the layer returns the prompt's keys and values
  prompt and group         training: completions attend to the prompt's keys and values too
  group, with both caches  decoding: T = 1, keys and values of the past come from the caches
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from rrft_jax.models import attention, rotary
from rrft_jax.models.config import TextConfig
from rrft_jax.models.remat import rematerialised


class KeyValues(NamedTuple):
    """Keys and values of all layers: a prompt's [L,B,P,K,C], or completions' [L,B,G,T,K,C]."""

    keys: jax.Array
    values: jax.Array


@flax.struct.dataclass
class Step:
    """What every layer is told beside its streams.

    prompt_mask [B,P]; prompt_angles [B,P,C/2]; group_angles [B,1,T,C/2]; own_mask [Q,T], which
    tokens of its completion a query sees; time: index of the token being decoded.
    """

    prompt_mask: jax.Array
    prompt_angles: jax.Array | None = None
    group_angles: jax.Array | None = None
    own_mask: jax.Array | None = None
    time: jax.Array | None = None


class RMSNorm(nn.Module):
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return x.astype(self.dtype) * scale.astype(self.dtype)


class DecoderLayer(nn.Module):
    config: TextConfig
    dtype: Any

    def setup(self):
        c = self.config
        self.input_norm = RMSNorm(c.norm_eps, self.dtype)
        self.post_norm = RMSNorm(c.norm_eps, self.dtype)
        self.q = self._dense(c.heads * c.head_size, bias=True)
        self.k = self._dense(c.kv_heads * c.head_size, bias=True)
        self.v = self._dense(c.kv_heads * c.head_size, bias=True)
        self.o = self._dense(c.width)
        self.gate = self._dense(c.mlp_width)
        self.up = self._dense(c.mlp_width)
        self.down = self._dense(c.width)

    def __call__(self, carry, layer, prompt_kv, step: Step):
        """One layer over both streams.

        Args:
          carry: (prompt [B,P,D] | None, group [B,G,T,D] | None, cache: KeyValues of all layers
            [L,B,G,T,K,C] | None). The cache travels in the carry and one token of one layer is
            written at a time, so that XLA updates it in place.
          layer: index of this layer.
          prompt_kv: this layer's prompt keys and values [B,P,K,C] from a prefill, or None.
          step: see `Step`.

        Returns:
          (carry, prompt_kv of this layer where the prompt was computed, or None).
        """
        prompt, group, cache = carry
        computed = None
        if prompt is not None:
            q, k, v = self._project(prompt, step.prompt_angles)
            prompt_kv = computed = KeyValues(k, v)
            prompt = self._residual(prompt, attention.causal(q, k, v, step.prompt_mask))
        if group is not None:
            q, k, v = self._project(group, step.group_angles)
            if cache is not None:
                cache = KeyValues(
                    *(_write(c, new, layer, step.time) for c, new in zip(cache, (k, v)))
                )
                k, v = (jax.lax.dynamic_index_in_dim(c, layer, keepdims=False) for c in cache)
            attended = attention.group(q, *prompt_kv, step.prompt_mask, k, v, step.own_mask)
            group = self._residual(group, attended)
        return (prompt, group, cache), computed

    def _project(self, x: jax.Array, angles: jax.Array):
        c, x = self.config, self.input_norm(x)
        q = self.q(x).reshape(*x.shape[:-1], c.heads, c.head_size)
        k = self.k(x).reshape(*x.shape[:-1], c.kv_heads, c.head_size)
        v = self.v(x).reshape(*x.shape[:-1], c.kv_heads, c.head_size)
        return rotary.rotate(q, angles), rotary.rotate(k, angles), v

    def _residual(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        x = x + self.o(attended.reshape(*x.shape[:-1], -1))
        hidden = self.post_norm(x)
        return x + self.down(jax.nn.silu(self.gate(hidden)) * self.up(hidden))

    def _dense(self, width: int, bias: bool = False) -> nn.Dense:
        return nn.Dense(width, use_bias=bias, dtype=self.dtype)


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

    def setup(self):
        c, init = self.config, nn.initializers.normal(0.02)
        self.embed = nn.Embed(c.vocab_size, c.width, dtype=self.dtype, embedding_init=init)
        self.layers = nn.scan(
            rematerialised(DecoderLayer, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast),
            length=c.depth,
        )(c, self.dtype)
        self.norm = RMSNorm(c.norm_eps, self.dtype)
        if not c.tied:
            self.head = Head(c)

    def __call__(self, prompt, group, cache, prompt_kv, step: Step):
        """Runs the layers; streams and caches as in `DecoderLayer`.

        Returns:
          (prompt, group, cache, prompt_kv): streams before the final norm, caches of all layers.
        """
        carry, computed = self.layers(
            (prompt, group, cache), jnp.arange(self.config.depth), prompt_kv, step
        )
        return *carry, computed

    def embed_tokens(self, tokens: jax.Array) -> jax.Array:
        return self.embed(tokens)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[...,D] before the final norm -> [...,V] float32."""
        weight = self.embed.embedding.T if self.config.tied else self.head()
        return jnp.matmul(
            self.norm(hidden), weight.astype(self.dtype), preferred_element_type=jnp.float32
        )


def text_angles(config: TextConfig, positions: jax.Array) -> jax.Array:
    """[3,...] positions -> [...,C/2]."""
    return rotary.text_angles(positions, config.head_size, config.rope_theta, config.mrope_sections)


def _write(cache: jax.Array, new: jax.Array, layer: jax.Array, time: jax.Array) -> jax.Array:
    """Writes one token [B,G,1,K,C] of one layer into a cache [L,B,G,T,K,C]."""
    return jax.lax.dynamic_update_slice(
        cache, new[None].astype(cache.dtype), (layer, 0, 0, time, 0, 0)
    )
