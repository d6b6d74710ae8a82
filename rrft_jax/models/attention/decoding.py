"""Attention of the sampler: one query per sequence, over its prompt and its own past.

It is `attention.group` for one token. Its caches lie as its two products read them: keys with their
tokens last, values with their features last (`KeyValues`). A sequence (R) is a completion that is
being sampled. All sequences of a prompt read its keys and values as one matrix: for that product
they stand in the slots of their prompts, [B,G]. At first sequence r is in slot r; when finished
sequences have been taken out, `Slots` has the slots of the others.
"""

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from rrft_jax.models.arrays import Array
from rrft_jax.models.attention.keys import KeyValues
from rrft_jax.models.attention.xla import MASKED


@flax.struct.dataclass
class Slots:
    """The slot of every sequence, if there are fewer sequences than slots.

    Attributes:
      index: [N,r] int32. Sequences and prompts are split into N equal shards, in order, one for
        each device along the batch; a slot counts inside its shard. No sequence leaves its device.
      group: G, slots of a prompt.
    """

    index: Array
    group: int = flax.struct.field(pytree_node=False)

    def scatter(self, sequences: Shaped[Array, "R ..."], prompts: int) -> Shaped[Array, "B G ..."]:
        """Put sequences into the slots of so many prompts; empty slots are zero."""
        shards, rest = len(self.index), sequences.shape[1:]
        empty = jnp.zeros((prompts * self.group // shards, *rest), sequences.dtype)
        slots = jax.vmap(lambda index, x: empty.at[index].set(x))(
            self.index, sequences.reshape(shards, -1, *rest)
        )
        return slots.reshape(prompts, self.group, *rest)

    def gather(self, slots: Shaped[Array, "B G ..."]) -> Shaped[Array, "R ..."]:
        """Take the sequences out of their slots again."""
        shards, rest = len(self.index), slots.shape[2:]
        found = jax.vmap(lambda index, x: x[index])(self.index, slots.reshape(shards, -1, *rest))
        return found.reshape(-1, *rest)


def attend(
    q: Float[Array, "R H C"],
    prompt: KeyValues,
    prompt_mask: Bool[Array, "B P"],
    own: KeyValues,
    own_mask: Bool[Array, "*N T"],
    slots: Slots | None,
) -> Float[Array, "R H C"]:
    """Attend to the prompt and to the sequence's own tokens under one softmax.

    Args:
      q: the queries.
      prompt: keys [B,K,C,P] and values [B,K,P,C] of the prompts.
      prompt_mask: False on padding.
      own: keys [R,K,C,T] and values [R,K,T,C] of the sequences.
      own_mask: the own tokens [T] that every sequence sees, or [R,T] those that each one sees.
      slots: the slots of the sequences; None if R = B x G and every sequence is in its own.
    """
    sequences, heads, size = q.shape
    prompts, kv_heads = prompt.keys.shape[:2]
    q = (q * size**-0.5).reshape(sequences, kv_heads, heads // kv_heads, size)
    grouped = slots.scatter(q, prompts) if slots else q.reshape(prompts, -1, *q.shape[1:])
    shared = _softmax(
        "bgkrc,bkcp->bkgrp", "bkgrp,bkpc->bkgrc", grouped, prompt, prompt_mask[:, None, None, None]
    )
    # Transposed afterwards: an einsum into the order [B,G,K,...] is four times slower on CPU.
    shared = tuple(jnp.swapaxes(x, 1, 2) for x in shared)
    if slots:
        shared = tuple(slots.gather(x) for x in shared)
    else:
        shared = tuple(x.reshape(sequences, *x.shape[2:]) for x in shared)
    past = _softmax("nkrc,nkct->nkrt", "nkrt,nktc->nkrc", q, own, own_mask[..., None, None, :])
    highest = jnp.maximum(shared[1], past[1])
    scales = [jnp.exp(x[1] - highest)[..., None] for x in (shared, past)]
    attended = shared[0] * scales[0] + past[0] * scales[1]
    total = shared[2][..., None] * scales[0] + past[2][..., None] * scales[1]
    return (attended / total).astype(own.values.dtype).reshape(sequences, heads, size)


def _softmax(
    score: str,
    average: str,
    q: Float[Array, "..."],
    kv: KeyValues,
    mask: Bool[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """Return one share of a softmax: (weighted sum of values, maximum, sum of weights)."""
    scores = jnp.einsum(score, q, kv.keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores, MASKED)
    highest = scores.max(-1)
    weights = jnp.exp(scores - highest[..., None])
    attended = jnp.einsum(
        average, weights.astype(kv.values.dtype), kv.values, preferred_element_type=jnp.float32
    )
    return attended, highest, weights.sum(-1)
