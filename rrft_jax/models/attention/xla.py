"""The three attentions in plain JAX: the reference of the kernels, and what a CPU runs.

All three are one softmax over one or two sets of keys, some queries at a time: the scores of
a chunk stay in the processor's cache, and are never kept. The backward pass computes them again
from the softmax's normaliser, as FlashAttention does (https://arxiv.org/abs/2205.14135). Scores and
softmax are float32 whatever the dtype of queries, keys and values. Arguments and results are those
of the functions of the same names in the package.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rrft_jax.models.layers import widened

MASKED = -1e30  # finite: a padding token that sees nothing must not become NaN
MOST_SCORES = 2**21  # that exist at a time: 8 MiB
FEWEST_QUERIES = 16  # that are worth a chunk


class Keys(NamedTuple):
    """Keys and values with what is seen of them: one set a row, or one for each completion of it.

    keys, values: [B,S,K,C] or [B,G,S,K,C], used in the queries' dtype; mask: which of them a query
    sees, as `mask[..., Q, S]` that broadcasts against [B,K,G,R,Q,S].
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array

    @property
    def axes(self) -> str:
        return "bskc" if self.keys.ndim == 4 else "bgskc"


def segment(q, k, v, segments):
    mask = segments[:, :, None] == segments[:, None, :]
    return _attend(q[:, None], [Keys(k, v, mask[:, None, None, None])])[:, 0]


def causal(q, k, v, mask):
    before = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    mask = before & mask[:, None, :]
    return _attend(q[:, None], [Keys(k, v, mask[:, None, None, None])])[:, 0]


def group(q, prompt_k, prompt_v, prompt_mask, own_k, own_v):
    queries = q.shape[2]
    prompt_mask = jnp.broadcast_to(
        prompt_mask[:, None], (len(prompt_mask), queries, prompt_mask.shape[1])
    )
    prompt = Keys(prompt_k, prompt_v, prompt_mask[:, None, None, None])
    past = jnp.tril(jnp.ones((queries, queries), bool))
    return _attend(q, [prompt, Keys(own_k, own_v, past)])


def _attend(q: jax.Array, parts: Sequence[Keys]) -> jax.Array:
    """q [B,G,Q,H,C] over all parts -> [B,G,Q,H,C], some queries at a time."""
    batch, group, queries, heads, size = q.shape
    kv_heads = parts[0].keys.shape[-2]
    split = (q * size**-0.5).reshape(batch, group, queries, kv_heads, heads // kv_heads, size)
    split = jnp.transpose(split, (0, 3, 1, 4, 2, 5))
    keys = sum(part.keys.shape[-3] for part in parts)
    chunk = max(MOST_SCORES // (batch * group * heads * keys), FEWEST_QUERIES)
    if chunk >= queries:
        attended = _softmax_attention(split, tuple(parts))
    else:
        chunks = -(-queries // chunk)
        chunk = -(-queries // chunks)

        def in_chunks(x: jax.Array) -> jax.Array:  # [...,Q,C] -> [chunks,...,chunk,C]
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, chunks * chunk - queries), (0, 0)])
            return jnp.moveaxis(x.reshape(*x.shape[:-2], chunks, chunk, x.shape[-1]), -3, 0)

        def one(chunk):
            q, *masks = chunk
            return _softmax_attention(
                q, tuple(part._replace(mask=mask) for part, mask in zip(parts, masks))
            )

        # The gradients of keys and values add up over the chunks, in what the loop is given.
        parts = [Keys(widened(x.keys), widened(x.values), x.mask) for x in parts]
        masks = (in_chunks(part.mask) for part in parts)
        attended = jnp.moveaxis(jax.lax.map(one, (in_chunks(split), *masks)), 0, -3)
        attended = attended.reshape(*attended.shape[:4], chunks * chunk, size)[..., :queries, :]
    return jnp.transpose(attended, (0, 2, 4, 1, 3, 5)).reshape(q.shape)


@jax.custom_vjp
def _softmax_attention(q: jax.Array, parts: tuple[Keys, ...]) -> jax.Array:
    """Scaled q [B,K,G,R,Q,C] over all parts, under one softmax -> [B,K,G,R,Q,C]."""
    return _forward(q, parts)[0]


def _forward(q, parts):
    # One softmax over all parts, without ever putting them side by side.
    scores = [_scores(q, part) for part in parts]
    highest = _total(jnp.maximum, [s.max(-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - highest) for s in scores]
    total = _total(jnp.add, [w.sum(-1, keepdims=True) for w in weights])
    attended = _total(
        jnp.add,
        [
            _einsum(f"bkgrqs,{part.axes}->bkgrqc", w.astype(q.dtype), part.values.astype(q.dtype))
            for w, part in zip(weights, parts)
        ],
    )
    attended = (attended / total).astype(q.dtype)
    return attended, (q, parts, attended, highest + jnp.log(total))


def _backward(kept, gradient):
    q, parts, attended, normaliser = kept
    along = jnp.sum(gradient.astype(jnp.float32) * attended, axis=-1, keepdims=True)
    of_q, of_parts = [], []
    for part in parts:
        weights = jnp.exp(_scores(q, part) - normaliser)
        values, keys = part.values.astype(q.dtype), part.keys.astype(q.dtype)
        of_weights = _einsum(f"bkgrqc,{part.axes}->bkgrqs", gradient, values)
        of_scores = (weights * (of_weights - along)).astype(q.dtype)
        of_q.append(_einsum(f"bkgrqs,{part.axes}->bkgrqc", of_scores, keys))
        of_keys = _einsum(f"bkgrqs,bkgrqc->{part.axes}", of_scores, q)
        of_values = _einsum(f"bkgrqs,bkgrqc->{part.axes}", weights.astype(q.dtype), gradient)
        dtype = part.keys.dtype
        of_parts.append(Keys(of_keys.astype(dtype), of_values.astype(dtype), None))
    return _total(jnp.add, of_q).astype(q.dtype), tuple(of_parts)


_softmax_attention.defvjp(_forward, _backward)


def _scores(q: jax.Array, part: Keys) -> jax.Array:
    scores = _einsum(f"bkgrqc,{part.axes}->bkgrqs", q, part.keys.astype(q.dtype))
    return jnp.where(part.mask, scores, MASKED)


def _einsum(axes: str, *arrays: jax.Array) -> jax.Array:
    return jnp.einsum(axes, *arrays, preferred_element_type=jnp.float32)


def _total(add: Callable, parts: list[jax.Array]) -> jax.Array:
    first, *rest = parts
    for other in rest:
        first = add(first, other)
    return first
