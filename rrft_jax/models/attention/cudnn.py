"""The three attentions by cuDNN's fused attention, for GPUs: bfloat16 and float16 alone.

cuDNN takes a mask as data, and both lengths must be even for its gradient. The merged softmax of
`group` can't be put together from two calls, because no gradient passes through the normaliser
that cuDNN returns: the kernel gets each completion's own copy of its prompt's keys and values
beside its own.
"""

import jax
import jax.numpy as jnp

from rrft_jax.models.layers import broadcast

IMPLEMENTATION = "cudnn"


def segment(q, k, v, segments):
    return _attend(q, k, v, segments[:, :, None] == segments[:, None, :])


def causal(q, k, v, mask):
    before = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    return _attend(q, k, v, before & mask[:, None, :])


def group(q, prompt_k, prompt_v, prompt_mask, own_k, own_v):
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


def _flat(x: jax.Array) -> jax.Array:
    """[B,G,...] -> [BG,...]."""
    return x.reshape(-1, *x.shape[2:])


def _attend(q, k, v, mask):
    """q [B,Q,H,C], k and v [B,S,K,C], mask [B,Q,S] -> [B,Q,H,C]."""
    length = q.shape[1]
    even = (0, length % 2), (0, k.shape[1] % 2)
    q = jnp.pad(q, ((0, 0), even[0], (0, 0), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), even[1], (0, 0), (0, 0))) for x in (k, v))
    mask = jnp.pad(mask, ((0, 0), *even))
    attended = jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], implementation=IMPLEMENTATION
    )
    return attended[:, :length]
