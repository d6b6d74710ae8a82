"""The three attentions in plain JAX: the kernels' reference, and the form for CPUs.

All three are one softmax over one or two sets of keys, for a chunk of queries at a time. The scores
of a chunk stay in the processor's cache and are never stored. The backward pass computes them again
from the softmax's normaliser, as FlashAttention does (https://arxiv.org/abs/2205.14135). Scores and
softmax are float32 whatever the dtype of queries, keys and values. Arguments and results are the
same as in `dispatch.py`, for functions of the same names.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Bool, Float, Int

from rrft_jax.models.arrays import Array
from rrft_jax.models.attention import neighbours
from rrft_jax.models.attention.neighbours import NOTHING, beside, flat
from rrft_jax.models.layers import ATTENTION, widened

MASKED = -1e30  # finite: a padding token that sees nothing must not become NaN
MOST_SCORES = 2**21  # the most scores in memory at a time: 8 MiB
FEWEST_QUERIES = 16  # the smallest chunk
MOST_BLOCK_SCORES = 2**19  # the same for short segments, whose scores are small products


class Keys(NamedTuple):
    """A set of keys and values, one per prompt or one per completion, with its mask.

    Attributes:
      keys, values: [B,S,K,C] or [B,G,S,K,C]; they are used in the queries' dtype.
      mask: `mask[..., Q, S]`, True where a query sees a key; broadcasts against [B,K,G,R,Q,S]. If
        there are `ids`, it is `mask[..., Q, 1]`, the id of each query.
      ids: `ids[..., 1, S]`, the id of each key: a query sees the keys of its own id. So no array of
        all pairs is stored.
    """

    keys: Float[Array, "B *G S K C"]
    values: Float[Array, "B *G S K C"]
    mask: Bool[Array, "..."] | Int[Array, "..."]
    ids: Int[Array, "..."] | None = None

    @property
    def seen(self) -> Bool[Array, "..."]:
        """True where a query sees a key."""
        return self.mask if self.ids is None else self.mask == self.ids

    @property
    def axes(self) -> str:
        return "bskc" if self.keys.ndim == 4 else "bgskc"


def segment(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    longest: int | None = None,
) -> Float[Array, "B S H C"]:
    if longest is not None:
        return _blockwise(q, k, v, segments, longest)
    return _attend_within(q, k, v, segments, segments)


def _attend_within(
    q: Float[Array, "B Q H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    q_ids: Int[Array, "B Q"],
    k_ids: Int[Array, "B S"],
) -> Float[Array, "B Q H C"]:
    q_ids, k_ids = q_ids[:, None, None, None, :, None], k_ids[:, None, None, None, None, :]
    return _attend(q[:, None], [Keys(k, v, q_ids, k_ids)])[:, 0]


def _blockwise(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    longest: int,
) -> Float[Array, "B S H C"]:
    """Attend some blocks at a time; the backward pass keeps each key once, and not per block."""
    batch, length, heads, _ = q.shape
    blocks = -(-length // longest)
    most = max(MOST_BLOCK_SCORES // (batch * heads * 3 * longest**2), 1)
    blocks = -(-blocks // -(-blocks // most))  # in as many chunks, all of nearly the same size

    def cut(x: Array, fill: int = 0) -> Array:
        return neighbours.in_chunks(x, longest, blocks, fill)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # it stands in a loop
    def one(chunk):
        q, k, v, ids, all_ids, crossed = chunk

        def attend(keys_of: Callable[[Array], Array]) -> Array:
            keys = keys_of(k), keys_of(v)
            return _attend_within(flat(q), *keys, flat(ids), keys_of(all_ids))

        return jax.lax.cond(
            crossed, lambda: attend(neighbours.around), lambda: attend(neighbours.own)
        )

    ids = cut(segments, NOTHING)
    all_ids = beside(ids, NOTHING)
    # Widened, because the gradient of a key is a sum over the blocks that may see it.
    keys = beside(cut(widened(k))), beside(cut(widened(v)))
    chunks = cut(q), *keys, ids, all_ids, neighbours.crossed(all_ids)
    return neighbours.joined(jax.lax.map(one, chunks), batch, length)


def causal(
    q: Float[Array, "B P H C"],
    k: Float[Array, "B P K C"],
    v: Float[Array, "B P K C"],
    mask: Bool[Array, "B P"],
) -> Float[Array, "B P H C"]:
    before = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    mask = before & mask[:, None, :]
    return _attend(q[:, None], [Keys(k, v, mask[:, None, None, None])])[:, 0]


def group(
    q: Float[Array, "B G T H C"],
    prompt_k: Float[Array, "B P K C"],
    prompt_v: Float[Array, "B P K C"],
    prompt_mask: Bool[Array, "B P"],
    own_k: Float[Array, "B G T K C"],
    own_v: Float[Array, "B G T K C"],
) -> Float[Array, "B G T H C"]:
    queries = q.shape[2]
    prompt_mask = jnp.broadcast_to(
        prompt_mask[:, None], (len(prompt_mask), queries, prompt_mask.shape[1])
    )
    prompt = Keys(prompt_k, prompt_v, prompt_mask[:, None, None, None])
    past = jnp.tril(jnp.ones((queries, queries), bool))
    return _attend(q, [prompt, Keys(own_k, own_v, past)])


def _attend(q: Float[Array, "B G Q H C"], sets: Sequence[Keys]) -> Float[Array, "B G Q H C"]:
    """Attend to all sets of keys, some queries at a time."""
    batch, group, queries, heads, size = q.shape
    kv_heads = sets[0].keys.shape[-2]
    split = (q * size**-0.5).reshape(batch, group, queries, kv_heads, heads // kv_heads, size)
    split = jnp.transpose(split, (0, 3, 1, 4, 2, 5))
    keys = sum(each.keys.shape[-3] for each in sets)
    chunk = max(MOST_SCORES // (batch * group * heads * keys), FEWEST_QUERIES)
    if chunk >= queries:
        attended = _softmax_attention(split, tuple(sets))
    else:
        chunks = -(-queries // chunk)
        chunk = -(-queries // chunks)

        def in_chunks(x: Array) -> Array:  # [...,Q,C] -> [chunks,...,chunk,C]
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, chunks * chunk - queries), (0, 0)])
            return jnp.moveaxis(x.reshape(*x.shape[:-2], chunks, chunk, x.shape[-1]), -3, 0)

        def one(chunk):
            q, *masks = chunk
            return _softmax_attention(
                q, tuple(each._replace(mask=mask) for each, mask in zip(sets, masks))
            )

        # Gradients of keys and values add up over the chunks in the dtype of the loop's constants.
        sets = [x._replace(keys=widened(x.keys), values=widened(x.values)) for x in sets]
        masks = (in_chunks(each.mask) for each in sets)
        attended = jnp.moveaxis(jax.lax.map(one, (in_chunks(split), *masks)), 0, -3)
        attended = attended.reshape(*attended.shape[:4], chunks * chunk, size)[..., :queries, :]
    return jnp.transpose(attended, (0, 2, 4, 1, 3, 5)).reshape(q.shape)


@jax.custom_vjp
def _softmax_attention(
    q: Float[Array, "B K G R Q C"], sets: tuple[Keys, ...]
) -> Float[Array, "B K G R Q C"]:
    """Attend with scaled queries to all sets of keys, under one softmax."""
    return _forward(q, sets)[0]


def _forward(q, sets):
    # One softmax over all sets of keys, without concatenating them.
    scores = [_scores(q, each) for each in sets]
    highest = _total(jnp.maximum, [s.max(-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - highest) for s in scores]
    total = _total(jnp.add, [w.sum(-1, keepdims=True) for w in weights])
    attended = _total(
        jnp.add,
        [
            _einsum(f"bkgrqs,{each.axes}->bkgrqc", w.astype(q.dtype), each.values.astype(q.dtype))
            for w, each in zip(weights, sets)
        ],
    )
    results = (attended / total).astype(q.dtype), highest + jnp.log(total)
    attended, normaliser = checkpoint_name(results, ATTENTION)
    return attended, (q, sets, attended, normaliser)


def _backward(kept, gradient):
    q, sets, attended, normaliser = kept
    along = jnp.sum(gradient.astype(jnp.float32) * attended, axis=-1, keepdims=True)
    of_q, of_sets = [], []
    for each in sets:
        weights = jnp.exp(_scores(q, each) - normaliser)
        values, keys = each.values.astype(q.dtype), each.keys.astype(q.dtype)
        of_weights = _einsum(f"bkgrqc,{each.axes}->bkgrqs", gradient, values)
        of_scores = (weights * (of_weights - along)).astype(q.dtype)
        of_q.append(_einsum(f"bkgrqs,{each.axes}->bkgrqc", of_scores, keys))
        of_keys = _einsum(f"bkgrqs,bkgrqc->{each.axes}", of_scores, q)
        of_values = _einsum(f"bkgrqs,bkgrqc->{each.axes}", weights.astype(q.dtype), gradient)
        dtype = each.keys.dtype
        of_sets.append(Keys(of_keys.astype(dtype), of_values.astype(dtype), None))
    return _total(jnp.add, of_q).astype(q.dtype), tuple(of_sets)


_softmax_attention.defvjp(_forward, _backward)


def _scores(q: Float[Array, "B K G R Q C"], keys: Keys) -> Float[Array, "B K G R Q S"]:
    scores = _einsum(f"bkgrqc,{keys.axes}->bkgrqs", q, keys.keys.astype(q.dtype))
    return jnp.where(keys.seen, scores, MASKED)


def _einsum(axes: str, *arrays: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.einsum(axes, *arrays, preferred_element_type=jnp.float32)


def _total(add: Callable, arrays: list[Float[Array, "..."]]) -> Float[Array, "..."]:
    first, *rest = arrays
    for other in rest:
        first = add(first, other)
    return first
