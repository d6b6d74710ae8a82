"""The three attentions by cuDNN's fused attention, for GPUs, only in bfloat16 and float16.

cuDNN leaves keys out by a number for each row, and by order. This needs no array of all pairs, and
the pairs that are left out cost nothing. So prompts must have their padding at the end
(`Kernels.tokens_first`). `group` is one softmax in two calls: all completions read their prompt as
one sequence of queries, and each reads its own past. `segment` needs an array of all pairs where a
row has several pictures, and for windows, whose pairs are few.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Bool, Float, Int

from rrft_jax.models.arrays import Array
from rrft_jax.models.attention import fused, neighbours
from rrft_jax.models.attention.fused import Keys
from rrft_jax.models.layers import ATTENTION, widened


def segment(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    longest: int | None = None,
) -> Float[Array, "B S H C"]:
    """Attend inside segments; if all rows have one segment at most, its id is 0 and it is first."""
    if longest is not None:
        return _blockwise(q, k, v, segments, longest)
    keys = Keys(k, v, _at_least_1(segments == 0), (segments, segments))
    return _attend(q[:, None], (keys,))[:, 0]


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
    keys = Keys(k, v, ids=(neighbours.flat(ids[0]), all_ids))
    attended = _attend(neighbours.flat(q[0])[:, None], (keys,))[:, 0]
    return neighbours.joined(attended[None], batch, length)


def causal(
    q: Float[Array, "B P H C"],
    k: Float[Array, "B P K C"],
    v: Float[Array, "B P K C"],
    mask: Bool[Array, "B P"],
) -> Float[Array, "B P H C"]:
    keys = Keys(k, v, _at_least_1(mask), causal=True)
    return _attend(q[:, None], (keys,))[:, 0]


def group(
    q: Float[Array, "B G T H C"],
    prompt_k: Float[Array, "B P K C"],
    prompt_v: Float[Array, "B P K C"],
    prompt_mask: Bool[Array, "B P"],
    own_k: Float[Array, "B G T K C"],
    own_v: Float[Array, "B G T K C"],
) -> Float[Array, "B G T H C"]:
    prompt = Keys(prompt_k, prompt_v, _at_least_1(prompt_mask))
    return _attend(q, (prompt, Keys(own_k, own_v, causal=True)))


def _at_least_1(mask: Bool[Array, "B S"]) -> Int[Array, " B"]:
    """Return the number of keys of each row; 1 for a row of padding, which must not become NaN."""
    return jnp.maximum(jnp.sum(mask, axis=1, dtype=jnp.int32), 1)


@jax.custom_vjp
def _attend(q: Float[Array, "B G Q H C"], sets: tuple[Keys, ...]) -> Float[Array, "B G Q H C"]:
    """Attend to all sets of keys, [B,S,K,C] or [B,G,S,K,C], under one softmax."""
    return _forward(q, sets)[0]


def _forward(q, sets):
    parts = [_of_queries(q, _part(fused.forward, keys, q)) for keys in sets]
    attended, total = parts[0]
    if len(parts) > 1:
        total = functools.reduce(jnp.logaddexp, (normaliser for _, normaliser in parts))
        shares = (widened(x) * jnp.exp(own - total)[..., None] for x, own in parts)
        attended = functools.reduce(jnp.add, shares).astype(q.dtype)
    attended, total = checkpoint_name((attended, total), ATTENTION)
    return attended, (q, sets, attended, total)


def _backward(kept, gradient):
    q, sets, attended, total = kept
    of_q, of_sets = [], []
    for keys in sets:
        own, *of_keys = _part(fused.backward, keys, q, attended, total, gradient)
        of_q += _of_queries(q, [own])
        k, v = (x.reshape(keys.keys.shape) for x in of_keys)
        of_sets.append(keys.replace(keys=k, values=v, lengths=None, ids=None))
    return functools.reduce(jnp.add, map(widened, of_q)).astype(q.dtype), tuple(of_sets)


_attend.defvjp(_forward, _backward)


def _part(
    function: Callable, keys: Keys, *of_queries: Float[Array, "B G Q H *_"]
) -> tuple[Float[Array, "..."], ...]:
    """Run a function of `fused.py`; the queries of all G are one sequence if they share keys."""
    batch, number, length = of_queries[0].shape[:3]
    if keys.keys.ndim == 4:
        rows = batch, number * length
    else:
        rows = batch * number, length
        k, v = (x.reshape(-1, *x.shape[2:]) for x in (keys.keys, keys.values))
        keys = keys.replace(keys=k, values=v)
    arrays = [x.reshape(*rows, *x.shape[3:]) for x in of_queries]

    def run(**changes: None) -> tuple[Float[Array, "..."], ...]:
        return function(keys.replace(**changes), *arrays)

    if keys.lengths is None or keys.ids is None:
        return run()
    single = jnp.all(keys.ids[1] <= 0)  # no row has two segments
    return jax.lax.cond(single, lambda: run(ids=None), lambda: run(lengths=None))


def _of_queries(
    q: Float[Array, "B G Q H C"], results: Sequence[Float[Array, "..."]]
) -> list[Float[Array, "B G Q H *_"]]:
    return [x.reshape(*q.shape[:3], *x.shape[2:]) for x in results]
