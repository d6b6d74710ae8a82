"""The three attentions by cuDNN's fused attention, for GPUs, only in bfloat16 and float16.

cuDNN takes a mask as data. For its gradient both lengths must be even. The softmax of `group` can't
be merged from two calls, because no gradient passes through the normaliser that cuDNN returns. So
each completion has a copy of its prompt's keys and values beside its own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from rrft_jax.models.arrays import Array
from rrft_jax.models.attention import neighbours
from rrft_jax.models.layers import broadcast, widened

IMPLEMENTATION = "cudnn"


def segment(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    longest: int | None = None,
) -> Float[Array, "B S H C"]:
    if longest is not None:
        return _blockwise(q, k, v, segments, longest)
    return _attend(q, k, v, segments[:, :, None] == segments[:, None, :])


def _blockwise(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    longest: int,
) -> Float[Array, "B S H C"]:
    """Attend all blocks at once, each between its neighbours."""
    batch, length = segments.shape
    blocks = -(-length // longest)
    q, k, v, ids = (
        neighbours.in_chunks(x, longest, blocks, fill)
        for x, fill in ((q, 0), (widened(k), 0), (widened(v), 0), (segments, neighbours.NOTHING))
    )
    all_ids = neighbours.around(neighbours.beside(ids, neighbours.NOTHING)[0])
    k, v = (neighbours.around(neighbours.beside(x)[0]).astype(q.dtype) for x in (k, v))
    mask = neighbours.flat(ids[0])[:, :, None] == all_ids[:, None, :]
    return neighbours.joined(_attend(neighbours.flat(q[0]), k, v, mask)[None], batch, length)


def causal(
    q: Float[Array, "B P H C"],
    k: Float[Array, "B P K C"],
    v: Float[Array, "B P K C"],
    mask: Bool[Array, "B P"],
) -> Float[Array, "B P H C"]:
    before = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    return _attend(q, k, v, before & mask[:, None, :])


def group(
    q: Float[Array, "B G T H C"],
    prompt_k: Float[Array, "B P K C"],
    prompt_v: Float[Array, "B P K C"],
    prompt_mask: Bool[Array, "B P"],
    own_k: Float[Array, "B G T K C"],
    own_v: Float[Array, "B G T K C"],
) -> Float[Array, "B G T H C"]:
    batch, number, length = q.shape[:3]

    def joined(prompt, own):  # [B,P,K,C], [B,G,T,K,C] -> [BG,P+T,K,C]
        prompt = broadcast(prompt[:, None], (batch, number, *prompt.shape[1:]))
        return _flat(jnp.concatenate([prompt, own], axis=2))

    past = jnp.tril(jnp.ones((length, length), bool))
    seen = jnp.broadcast_to(
        prompt_mask[:, None, None, :], (batch, number, length, prompt_k.shape[1])
    )
    own = jnp.broadcast_to(past, (batch, number, length, length))
    mask = _flat(jnp.concatenate([seen, own], axis=3))
    attended = _attend(_flat(q), joined(prompt_k, own_k), joined(prompt_v, own_v), mask)
    return attended.reshape(q.shape)


def _flat(x: Array) -> Array:
    """Merge the first two axes: [B,G,...] -> [BG,...]."""
    return x.reshape(-1, *x.shape[2:])


def _attend(
    q: Float[Array, "B Q H C"],
    k: Float[Array, "B S K C"],
    v: Float[Array, "B S K C"],
    mask: Bool[Array, "B Q S"],
) -> Float[Array, "B Q H C"]:
    length = q.shape[1]
    even = (0, length % 2), (0, k.shape[1] % 2)
    q = jnp.pad(q, ((0, 0), even[0], (0, 0), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), even[1], (0, 0), (0, 0))) for x in (k, v))
    mask = jnp.pad(mask, ((0, 0), *even))
    attended = jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], implementation=IMPLEMENTATION
    )
    return attended[:, :length]
