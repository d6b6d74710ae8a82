"""Attention of the sampler: one query a row, over the row's prompt and its own past.

It is `attention.group` for one token, read from caches that lie as the two products want them: keys
with their tokens last, [B,K,C,P] of prompts and [R,K,C,T] of the rows' own tokens, values with
their features last, [B,K,P,C] and [R,K,T,C]. A row (R) is a completion that is being sampled. All
rows of a prompt read its keys and values as one matrix, so rows stand in the slots of their
prompts, [B,G], while that part is computed. At first row r is slot r; when finished rows have been
taken out, `Slots` says where the others stand.
"""

import flax
import jax
import jax.numpy as jnp

from rrft_jax.models.attention.xla import MASKED


@flax.struct.dataclass
class Slots:
    """The slot of every row, where rows are fewer than slots.

    Attributes:
      index: [N,r] int32: rows and prompts are split into N equal parts, in order, one for each
        device along the batch; the slot is counted inside the part. So no row leaves its device.
      group: G, slots of a prompt.
    """

    index: jax.Array
    group: int = flax.struct.field(pytree_node=False)

    def scatter(self, rows: jax.Array, prompts: int) -> jax.Array:
        """[R,...] -> [B,G,...]; what stands in empty slots is zero."""
        parts = len(self.index)
        empty = jnp.zeros((prompts * self.group // parts, *rows.shape[1:]), rows.dtype)
        slots = jax.vmap(lambda index, x: empty.at[index].set(x))(
            self.index, rows.reshape(parts, -1, *rows.shape[1:])
        )
        return slots.reshape(prompts, self.group, *rows.shape[1:])

    def gather(self, slots: jax.Array) -> jax.Array:
        """[B,G,...] -> [R,...], the inverse of `scatter`."""
        rest, parts = slots.shape[2:], len(self.index)
        rows = jax.vmap(lambda index, x: x[index])(self.index, slots.reshape(parts, -1, *rest))
        return rows.reshape(-1, *rest)


def attend(
    q: jax.Array,
    prompt_k: jax.Array,
    prompt_v: jax.Array,
    prompt_mask: jax.Array,
    own_k: jax.Array,
    own_v: jax.Array,
    own_mask: jax.Array,
    slots: Slots | None,
) -> jax.Array:
    """One softmax over the prompt and the row's own tokens.

    Args:
      q: [R,H,C].
      prompt_k, prompt_v: [B,K,C,P], [B,K,P,C].
      prompt_mask: [B,P] bool.
      own_k, own_v: [R,K,C,T], [R,K,T,C].
      own_mask: [T] bool, which of its tokens a row sees.
      slots: where rows stand; None where R = B x G and every row is in its own place.

    Returns:
      [R,H,C].
    """
    rows, heads, size = q.shape
    prompts, kv_heads = prompt_k.shape[:2]
    q = (q * size**-0.5).reshape(rows, kv_heads, heads // kv_heads, size)
    grouped = slots.scatter(q, prompts) if slots else q.reshape(prompts, -1, *q.shape[1:])
    part = _softmax(
        "bgkrc,bkcp->bkgrp", "bkgrp,bkpc->bkgrc", grouped, prompt_k, prompt_v,
        prompt_mask[:, None, None, None],
    )  # fmt: skip
    # [B,K,G,...] as [B,G,K,...]. An einsum into that order is four times slower on CPU.
    part = tuple(jnp.swapaxes(x, 1, 2) for x in part)
    if slots:
        part = tuple(slots.gather(x) for x in part)
    else:
        part = tuple(x.reshape(rows, *x.shape[2:]) for x in part)
    own = _softmax("nkrc,nkct->nkrt", "nkrt,nktc->nkrc", q, own_k, own_v, own_mask)
    highest = jnp.maximum(part[1], own[1])
    scales = [jnp.exp(x[1] - highest)[..., None] for x in (part, own)]
    attended = part[0] * scales[0] + own[0] * scales[1]
    total = part[2][..., None] * scales[0] + own[2][..., None] * scales[1]
    return (attended / total).astype(own_v.dtype).reshape(rows, heads, size)


def _softmax(score: str, average: str, q, k, v, mask):
    """A part of the softmax: (weighted sum of values, not normalised; maximum; sum of weights)."""
    scores = jnp.einsum(score, q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores, MASKED)
    highest = scores.max(-1)
    weights = jnp.exp(scores - highest[..., None])
    attended = jnp.einsum(average, weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return attended, highest, weights.sum(-1)
