"""The three attentions of this project, in plain XLA form.

  segment   patches see the patches of their own picture, in both directions
  causal    a prompt token sees the prompt tokens before it
  group     a completion token sees its whole prompt and its own past, under one softmax

`group` is what makes a group of completions cheap: the keys and values of the prompt stand once
in memory, whatever the number of completions, and are read as one matrix by all of them. For G=2
completions of T=3 tokens over P=4 prompt tokens, the second completion's tokens see

            prompt     completion 0   completion 1
  token 0   1 1 1 1    . . .          1 . .
  token 1   1 1 1 1    . . .          1 1 .
  token 2   1 1 1 1    . . .          1 1 1

Scores and softmax are float32 whatever the dtype of queries, keys and values.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: a padding token that sees nothing must not become NaN
MOST_SCORES = 2**26  # that an attention holds at a time: 256 MiB


def segment(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    """Attention inside segments.

    Args:
      q, k, v: [B,S,H,C].
      segments: [B,S] int, equal inside a segment.

    Returns:
      [B,S,H,C].
    """
    return _attend(q, k, v, segments[:, :, None] == segments[:, None, :])


def causal(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Causal attention with grouped query heads.

    Args:
      q: [B,P,H,C].
      k, v: [B,P,K,C]; every H/K query heads share one.
      mask: [B,P] bool, False on padding.

    Returns:
      [B,P,H,C].
    """
    length = q.shape[1]
    before = jnp.tril(jnp.ones((length, length), bool))
    return _attend(q, k, v, before & mask[:, None, :])


def group(
    q: jax.Array,
    prompt_k: jax.Array,
    prompt_v: jax.Array,
    prompt_mask: jax.Array,
    own_k: jax.Array,
    own_v: jax.Array,
    own_mask: jax.Array,
) -> jax.Array:
    """Attention of completions over their shared prompt and their own past.

    Args:
      q: [B,G,Q,H,C]; Q is T in training and 1 in decoding.
      prompt_k, prompt_v: [B,P,K,C].
      prompt_mask: [B,P] bool.
      own_k, own_v: [B,G,T,K,C].
      own_mask: [Q,T] bool, which own tokens a query sees.

    Returns:
      [B,G,Q,H,C].
    """
    batch, group, _, heads, _ = q.shape
    keys = prompt_k.shape[1] + own_k.shape[2]

    def attend(q, own_mask):
        return _attend_group(q, prompt_k, prompt_v, prompt_mask, own_k, own_v, own_mask)

    return _in_chunks(attend, q, 2, own_mask, 0, batch * group * heads * keys)


def _attend_group(q, prompt_k, prompt_v, prompt_mask, own_k, own_v, own_mask):
    q = _split_heads(q, own_k.shape[-2])
    prompt_scores = jnp.einsum(
        "bgqkrc,bpkc->bkgqrp", q, prompt_k, preferred_element_type=jnp.float32
    )
    prompt_scores = jnp.where(prompt_mask[:, None, None, None, None, :], prompt_scores, MASKED)
    own_scores = jnp.einsum("bgqkrc,bgtkc->bkgqrt", q, own_k, preferred_element_type=jnp.float32)
    own_scores = jnp.where(own_mask[:, None, :], own_scores, MASKED)

    # One softmax over both parts, without ever putting them side by side.
    highest = jnp.maximum(prompt_scores.max(-1), own_scores.max(-1))[..., None]
    highest = jax.lax.stop_gradient(highest)
    prompt_weights = jnp.exp(prompt_scores - highest)
    own_weights = jnp.exp(own_scores - highest)
    total = prompt_weights.sum(-1) + own_weights.sum(-1)  # [B,K,G,Q,R]
    attended = jnp.einsum(
        "bkgqrp,bpkc->bgqkrc",
        prompt_weights.astype(q.dtype),
        prompt_v,
        preferred_element_type=jnp.float32,
    )
    attended += jnp.einsum(
        "bkgqrt,bgtkc->bgqkrc",
        own_weights.astype(q.dtype),
        own_v,
        preferred_element_type=jnp.float32,
    )
    attended /= jnp.moveaxis(total, 1, 3)[..., None]
    return attended.astype(q.dtype).reshape(*attended.shape[:3], -1, attended.shape[-1])


def _split_heads(q: jax.Array, kv_heads: int) -> jax.Array:
    """[...,H,C] -> scaled [...,K,R,C]: R query heads read each key/value head."""
    *rest, heads, size = q.shape
    return (q * size**-0.5).reshape(*rest, kv_heads, heads // kv_heads, size)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """q [B,Q,H,C], k and v [B,S,K,C], mask [B,Q,S] -> [B,Q,H,C]."""

    def attend(q, mask):
        split = _split_heads(q, k.shape[-2])
        scores = jnp.einsum("bqkrc,bskc->bkrqs", split, k, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, None, None], scores, MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("bkrqs,bskc->bqkrc", weights, v).reshape(q.shape)

    return _in_chunks(attend, q, 1, mask, 1, q.shape[0] * q.shape[2] * k.shape[1])


def _in_chunks(
    attend: Callable[[jax.Array, jax.Array], jax.Array],
    q: jax.Array,
    q_axis: int,
    mask: jax.Array,
    mask_axis: int,
    scores_per_query: int,
) -> jax.Array:
    """`attend(q, mask)`, some queries at a time where all scores at once would be too many.

    A chunk's scores are computed again in the backward pass.
    """
    queries = q.shape[q_axis]
    chunk = max(MOST_SCORES // scores_per_query, 16)
    if chunk >= queries:
        return attend(q, mask)
    chunks = -(-queries // chunk)

    def split(x, axis):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, chunks * chunk - queries)
        x = jnp.pad(x, pad)
        x = x.reshape(*x.shape[:axis], chunks, chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    one = jax.checkpoint(lambda part: attend(*part))
    attended = jax.lax.map(one, (split(q, q_axis), split(mask, mask_axis)))
    attended = jnp.moveaxis(attended, 0, q_axis)
    shape = (*q.shape[:q_axis], chunks * chunk, *q.shape[q_axis + 1 :])
    return jax.lax.slice_in_dim(attended.reshape(shape), 0, queries, axis=q_axis)
