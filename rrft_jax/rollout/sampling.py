"""The draw of a token from logits: by temperature, top-k and top-p, or greedily.

All three are traced values, so changing them never compiles anything again. Top-k and top-p leave
out the tokens below a threshold. The threshold is searched only if one of them is on: among a few
candidates if top-k is on, in the sorted vocabulary if only top-p is on. A token is then drawn with
one uniform number per sequence. The cumulative distribution is inverted in steps: over the devices
that the vocabulary is split over, over blocks of the vocabulary, then inside one block. So no
random number per entry is needed, and no logits leave their device (except for top-p alone, whose
sort needs all of them).
"""

import functools

import flax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Float32, Int, Int32

from rrft_jax.models.arrays import Array
from rrft_jax.parallel import sharding

EXCLUDED = -1e30
BLOCK = 128  # neighbouring tokens whose probabilities are added up first
MOST_CANDIDATES = 64  # the largest top-k that is found without sorting the vocabulary


@flax.struct.dataclass
class SamplingParams:
    """The settings of a draw. Temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    temperature: jax.Array | float = 1.0
    top_k: jax.Array | int = 0
    top_p: jax.Array | float = 1.0


def sample(
    uniform: Float[Array, " R"],
    logits: Float32[Array, "R V"],
    params: SamplingParams,
    mesh: Mesh | None = None,
) -> tuple[Int32[Array, " R"], Float32[Array, " R"]]:
    """Draw one token for each sequence.

    Args:
      uniform: random numbers in [0, 1).
      logits: the logits; tokens that must not be drawn have `EXCLUDED`.
      params: the settings, shared by all sequences. Top-k comes first, then the smallest set of at
        least top-p of the rest, then the draw. Tokens as likely as the last kept one are kept too.
      mesh: the mesh that the logits lie on as "RV"; None for one device. Except for rounding, the
        draw doesn't depend on it.

    Returns:
      tokens [R] int32; their log-probabilities [R] under the distribution that they were drawn
      from, temperature and truncation included (0 for the greedy choice).
    """
    if mesh is None:
        return _sample(uniform, logits, params, None)
    rows, vocabulary = sharding.spec(mesh, "RV", logits.shape)
    return jax.shard_map(
        functools.partial(_sample, axis=vocabulary),
        mesh=mesh,
        in_specs=(PartitionSpec(rows), PartitionSpec(rows, vocabulary), PartitionSpec()),
        out_specs=PartitionSpec(rows),
        check_vma=False,  # the check can't see that all shards of `vocabulary` return the same
    )(uniform, logits, params)


def _sample(
    uniform: Float[Array, " R"],
    logits: Float32[Array, "R V"],
    params: SamplingParams,
    axis: str | None,
) -> tuple[Int32[Array, " R"], Float32[Array, " R"]]:
    """Run `sample` on one device; its index along `axis` is the index of its vocabulary shard."""
    greedy = params.temperature <= 0
    logits = logits / jnp.where(greedy, 1.0, params.temperature)
    few = min(MOST_CANDIDATES, logits.shape[-1])
    lowest = jax.lax.switch(
        threshold(params, few),
        (
            lambda x: jnp.full(len(x), EXCLUDED),
            lambda x: _lowest_kept(jax.lax.top_k(_all(_largest(x, few), axis), few)[0], params),
            lambda x: _lowest_kept(-jnp.sort(-_all(x, axis), axis=-1), params),
        ),
        logits,
    )
    highest = logits.max(-1)
    if axis:
        highest = jax.lax.pmax(highest, axis)
    lowest = jnp.where(greedy, highest, lowest)
    # If several tokens are likeliest, the greedy choice is the first of them.
    uniform = jnp.where(greedy, 0.0, uniform)
    return _draw(uniform, jnp.where(logits >= lowest[:, None], logits, EXCLUDED), highest, axis)


def threshold(params: SamplingParams, few: int = MOST_CANDIDATES) -> Int[Array, ""]:
    """Say where the threshold is: nowhere (0), among `few` candidates (1) or the vocabulary (2)."""
    enough = (params.top_k > 0) & (params.top_k <= few)
    truncating = (params.top_k > 0) | (params.top_p < 1.0)
    return jnp.where(params.temperature <= 0, 0, jnp.where(enough, 1, jnp.where(truncating, 2, 0)))


def _draw(
    uniform: Float[Array, " R"],
    logits: Float32[Array, "R V"],
    highest: Float32[Array, " R"],
    axis: str | None,
) -> tuple[Int32[Array, " R"], Float32[Array, " R"]]:
    """Draw a token with probabilities softmax(logits), and give its log-probability."""
    weights = _blocks(jnp.exp(logits - highest[:, None]), 0.0)
    blocks = weights.sum(-1)
    devices = _all(blocks.sum(-1, keepdims=True), axis)
    total = devices.sum(-1)
    device, goal = _find(uniform * total, devices)
    block, goal = _find(goal, blocks)
    inside = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
    tokens = block * BLOCK + _find(goal, inside)[0]
    log_probs = _take(logits, tokens) - highest - jnp.log(total)
    if axis is None:
        return tokens, log_probs
    here = jax.lax.axis_index(axis)
    found = (tokens + here * logits.shape[-1], log_probs)
    return jax.lax.psum(jax.tree.map(lambda x: jnp.where(device == here, x, 0), found), axis)


def _find(
    goal: Float[Array, " R"], weights: Float32[Array, "R N"]
) -> tuple[Int32[Array, " R"], Float32[Array, " R"]]:
    """Find the entry where the cumulative sum of weights passes the goal, and the goal inside it.

    A cumulative sum that is computed in parallel rounds each element differently. It may rise or
    fall where the weight is zero, and it may end below the goal. So entries without weight are
    skipped, and a goal beyond the end falls to the last entry with weight.
    """
    up_to = jnp.cumsum(weights, axis=-1)
    place = jnp.arange(weights.shape[-1], dtype=jnp.int32)
    some = weights > 0
    last = jnp.max(jnp.where(some, place, 0), axis=-1, keepdims=True)
    index = jnp.min(jnp.where(some & (up_to > goal[:, None]), place, last), axis=-1)
    before = jnp.where(index > 0, _take(up_to, jnp.maximum(index - 1, 0)), 0.0)
    return index, goal - before


def _all(x: Float32[Array, "R N"], axis: str | None) -> Float32[Array, "R N_in_all"]:
    """Put the columns of all devices side by side."""
    return jax.lax.all_gather(x, axis, axis=1, tiled=True) if axis else x


def _lowest_kept(ordered: Float32[Array, "R N"], params: SamplingParams) -> Float32[Array, " R"]:
    """Return the last of descending logits that top-k, then top-p leave."""
    number = ordered.shape[-1]
    kept = jnp.where(params.top_k > 0, params.top_k, number)
    ordered = jnp.where(jnp.arange(number) < kept, ordered, EXCLUDED)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    nucleus = (before < params.top_p) & (ordered > EXCLUDED)
    nucleus |= jnp.arange(number) == 0  # never nothing
    return jnp.min(jnp.where(nucleus, ordered, jnp.inf), axis=-1)


def _largest(logits: Float32[Array, "R V"], number: int) -> Float32[Array, "R number"]:
    """Return the largest logits, descending.

    They all lie in the blocks with the `number` largest maxima, and only those are looked through.
    """
    blocks = _blocks(logits, EXCLUDED)
    if blocks.shape[1] > number:
        _, best = jax.lax.top_k(blocks.max(-1), number)
        logits = jnp.take_along_axis(blocks, best[..., None], axis=1).reshape(len(logits), -1)
    return jax.lax.top_k(logits, number)[0]


def _blocks(x: Float32[Array, "R N"], fill: float) -> Float32[Array, "R blocks block"]:
    """Cut rows into blocks, the last one filled up."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[-1] % BLOCK)), constant_values=fill)
    return x.reshape(len(x), -1, BLOCK)


def _take(x: Float32[Array, "R N"], index: Int[Array, " R"]) -> Float32[Array, " R"]:
    return jnp.take_along_axis(x, index[:, None], axis=-1)[:, 0]
