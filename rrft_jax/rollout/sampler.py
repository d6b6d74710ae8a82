"""Group sampling: G completions of each prompt.

The prompt goes through the model once. A jitted loop then extends all completions by a token at a
time. It stops, and the host goes on with a program of another shape, in two cases: the cache is
full (it grows in chunks, so that short completions never pay for the room of long ones), or so
many rows are finished that the others fit a smaller batch (so that a hundred short completions
don't wait for a long one at full cost). Shapes are few and each compiles once; what is drawn
doesn't depend on them. Of 14 x 8 completions of up to 512 tokens, in caches that grow by 256, there
are fifteen sizes and three lengths: at most 45 programs of the loop, of which a batch meets 17.
"""

import dataclasses
import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.models.attention.decoding import Slots
from rrft_jax.models.decoder import KeyValues
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM, LayerCaches, PromptCache
from rrft_jax.parallel import sharding
from rrft_jax.parallel.sharding import constrain
from rrft_jax.rollout.sampling import EXCLUDED, SamplingParams, sample

PLAIN = SamplingParams()
# Steps by which batches shrink, as powers of 2, while more than a quarter of the rows is left and
# below that, and the fewest rows of a device. Every size is a program to compile for each length
# of cache that it meets: where completions may be LONG (tokens), finer steps pay.
FINE, COARSE = (0.25, 0.5, 4), (1, 1, 8)
LONG = 256
# Tokens that the first cache has room for at most: TPUs keep fewer in as much memory.
FIRST = 128
# From so few rows a prompt on, each has a copy of its prompt, so that rows that are gone aren't
# computed with it: from one, or from this many where what the others took leaves room for copies.
OWN_PROMPT = 2


@flax.struct.dataclass
class Completions:
    """What was sampled.

    Attributes:
      tokens: [B,G,T] int32; after its end a completion holds `pad_token`.
      mask: [B,G,T] bool, True on sampled tokens, the stop token included.
      log_probs: [B,G,T] float32 under the policy itself (temperature 1, whole vocabulary).
      rollout_log_probs: [B,G,T] float32 under the distribution that the token was drawn from:
        without banned tokens, temperature, top-k and top-p included; 0 for greedy choices.
      finished: [B,G] bool; False where a completion was cut off at its last possible token.
    """

    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    rollout_log_probs: jax.Array
    finished: jax.Array


@flax.struct.dataclass
class _Rows:
    """The rows that are being sampled, before the token at index `time` is drawn.

    Attributes:
      time: scalar.
      hidden: [R,D], what the next token is drawn from.
      cache: each layer's keys [R,K,C,T'] and values [R,K,T',C]; T' grows.
      uniform: [R,T] random numbers in [0, 1), one for each draw.
      next_position: [R], of the first token.
      budget: [R], tokens at most.
      done: [R] bool, finished or at the end of the budget.
      out: the results so far, [R,T].
    """

    time: jax.Array
    hidden: jax.Array
    cache: LayerCaches
    uniform: jax.Array
    next_position: jax.Array
    budget: jax.Array
    done: jax.Array
    out: Completions


def generate(
    model: VLM,
    params: dict,
    prompt: Prompt,
    key: jax.Array,
    *,
    num_generations: int = 1,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    sampling: SamplingParams = PLAIN,
    banned: tuple[int, ...] | None = None,
    pad_token: int = 0,
    first_row: jax.Array | int = 0,
    budget: jax.Array | None = None,
    cache_chunk: int = 256,
) -> Completions:
    """Samples completions. Not for use inside `jax.jit`: it calls jitted programs of its own.

    Args:
      model: the model.
      params: its parameters.
      prompt: B prompts.
      key: the draw of a token is a function of (key, prompt index, sample index, token index).
      num_generations: G.
      max_new_tokens: T.
      stop_tokens: any of these ends a completion (`Processor.stop_tokens`).
      sampling: temperature, top-k and top-p; traced.
      banned: tokens that are never drawn; None bans those that stand for pictures.
      pad_token: fills up the ends.
      first_row: index of the first prompt where a data set comes in several batches: what a
        sample draws then doesn't depend on the size of the batches.
      budget: [B,G] int, tokens (at least 1) that each completion may have; None gives T to all.
      cache_chunk: tokens by which the cache grows (`cache_lengths`). A step reads the whole cache,
        so smaller chunks are faster, once each of their programs is compiled.
    """
    batch, group = len(prompt.tokens), num_generations
    if budget is None:
        budget = np.full((batch, group), max_new_tokens, np.int32)
    sampling = SamplingParams(
        np.float32(sampling.temperature), np.int32(sampling.top_k), np.float32(sampling.top_p)
    )
    # Rows stand on `parts` devices (one, where the prompts aren't split), as many on each.
    parts = 1 if model.mesh is None else sharding.num_shards(model.mesh, "B", batch)
    place = np.tile(np.arange(batch * group // parts, dtype=np.int32), (parts, 1))
    length, *longer = cache_lengths(cache_chunk, max_new_tokens)
    prompts, rows = _begin(
        model, params, prompt, key, np.int32(first_row), budget, max_new_tokens, length, pad_token
    )
    weights = model.decoding_weights(params)
    results, sizes = None, _sizes(batch * group // parts, max_new_tokens)
    while True:
        smaller = [size for size in sizes if size < place.shape[1]]
        rows, most = _advance(
            model,
            weights,
            prompts,
            rows,
            sampling,
            np.int32(max(smaller, default=0)),
            parts=parts,
            stop_tokens=stop_tokens,
            banned=model.config.visual_tokens if banned is None else banned,
            pad_token=pad_token,
        )
        most = int(most)
        if not most:
            return _finish(model, rows.out, place, results, group)
        if fitting := [size for size in smaller if size >= most]:
            own = prompts.slots is None and len(prompts.mask) == place.size
            rows, place, of_prompt, results = _compact(
                model, rows, place, results, min(fitting), None if own else group
            )
            room = (batch * group - place.size) * length >= place.size * prompts.mask.shape[1]
            if place.size <= (OWN_PROMPT if room else 1) * batch:
                prompts = _take_prompts(model, prompts, of_prompt)
            else:
                prompts = prompts.replace(slots=Slots(place, group))
        else:
            length, *longer = longer
            rows = _grow(model, rows, length)


def cache_lengths(chunk: int, max_new_tokens: int) -> list[int]:
    """Tokens that the caches have room for, one after the other: `FIRST` at most, then chunks."""
    lengths = [min(FIRST, chunk), *range(chunk, max_new_tokens, chunk), max_new_tokens]
    return sorted({length for length in lengths if length <= max_new_tokens})


def _sizes(rows: int, max_new_tokens: int) -> list[int]:
    """Rows of a device that there are programs for: all, and ever smaller batches."""
    many, few, fewest = FINE if max_new_tokens >= LONG else COARSE
    sizes, octave = {rows}, 0.0
    # Each from the first, and what is whole but for rounding stays so: B is one of B x 2^n.
    while (size := math.ceil(rows * 2**-octave - 1e-6)) >= fewest:
        sizes.add(size)
        octave += many if octave < 2 else few
    return sorted(sizes, reverse=True)


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens", "length", "pad_token"))
def _begin(model, params, prompt, key, first_row, budget, max_new_tokens, length, pad_token):
    """The prompts through the model: -> (`PromptCache`, `_Rows`)."""
    batch, group = budget.shape
    rows = batch * group
    index = first_row * group + jnp.arange(rows)
    hidden, kv = model.prefill(params, prompt)

    def draw(row, time):
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, row), time))

    def pin(x):
        return constrain(x, "R" + "." * (x.ndim - 1), model.mesh)

    def filled(value, dtype):
        return pin(jnp.full((rows, max_new_tokens), value, dtype))

    state = _Rows(
        time=jnp.zeros((), jnp.int32),
        hidden=pin(jnp.repeat(hidden, group, axis=0)),
        cache=model.empty_cache(rows, length),
        uniform=pin(
            jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(index, jnp.arange(max_new_tokens))
        ),
        next_position=pin(jnp.repeat(prompt.next_position, group)),
        budget=pin(jnp.minimum(budget, max_new_tokens).reshape(-1)),
        done=pin(jnp.zeros(rows, bool)),
        out=Completions(
            tokens=filled(pad_token, jnp.int32),
            mask=filled(False, bool),
            log_probs=filled(0, jnp.float32),
            rollout_log_probs=filled(0, jnp.float32),
            finished=pin(jnp.zeros(rows, bool)),
        ),
    )
    return PromptCache(kv, prompt.mask), state


@functools.partial(
    jax.jit,
    static_argnames=("model", "parts", "stop_tokens", "banned", "pad_token"),
    donate_argnames="rows",
)
def _advance(
    model: VLM,
    weights: dict,
    prompts: PromptCache,
    rows: _Rows,
    sampling: SamplingParams,
    enough: jax.Array,
    *,
    parts: int,
    stop_tokens: tuple[int, ...],
    banned: tuple[int, ...],
    pad_token: int,
) -> tuple[_Rows, jax.Array]:
    """Extends the rows until the cache is full, or no device has more than `enough` of them left.

    Returns:
      (the rows; how many aren't done, on the device with the most of them).
    """
    length = rows.cache[0].length
    is_banned = np.zeros(model.config.text.vocab_size, bool)
    is_banned[list(banned)] = True

    def most(rows: _Rows) -> jax.Array:
        return jnp.max(jnp.sum(~rows.done.reshape(parts, -1), axis=1))

    def step(rows: _Rows) -> _Rows:
        time, done, out = rows.time, rows.done, rows.out
        logits = constrain(model.logits(weights, rows.hidden), "RV", model.mesh)
        uniform = jax.lax.dynamic_index_in_dim(rows.uniform, time, axis=1, keepdims=False)
        allowed = jnp.where(is_banned, EXCLUDED, logits)
        tokens, sampled = sample(uniform, allowed, sampling, model.mesh)
        # A sum, and not a look-up: V may be split over devices.
        is_token = tokens[:, None] == jnp.arange(logits.shape[-1])
        chosen = jnp.sum(jnp.where(is_token, logits, 0.0), axis=-1)
        log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
        tokens = jnp.where(done, pad_token, tokens)
        stopped = jnp.isin(tokens, jnp.array(stop_tokens, int)) & ~done

        def put(column, x):
            return jax.lax.dynamic_update_slice_in_dim(column, x[:, None], time, axis=1)

        out = Completions(
            tokens=put(out.tokens, tokens),
            mask=put(out.mask, ~done),
            log_probs=put(out.log_probs, jnp.where(done, 0.0, log_probs)),
            rollout_log_probs=put(out.rollout_log_probs, jnp.where(done, 0.0, sampled)),
            finished=out.finished | stopped,
        )
        done |= stopped | (time + 1 >= rows.budget)
        hidden, cache = model.decode(weights, tokens, time, rows.next_position, prompts, rows.cache)
        return rows.replace(time=time + 1, hidden=hidden, cache=cache, done=done, out=out)

    rows = jax.lax.while_loop(lambda x: (x.time < length) & (most(x) > enough), step, rows)
    return rows, constrain(most(rows), "", model.mesh)


@functools.partial(jax.jit, static_argnames=("model", "length"))
def _grow(model: VLM, rows: _Rows, length: int) -> _Rows:
    """More room in the cache."""
    more = (0, length - rows.cache[0].length)

    def grow(x: jax.Array, axis: int) -> jax.Array:
        x = jnp.pad(x, [more if i == axis else (0, 0) for i in range(x.ndim)])
        return constrain(x, "RK..", model.mesh)

    return rows.replace(cache=tuple(KeyValues(grow(k, 3), grow(v, 2)) for k, v in rows.cache))


@functools.partial(jax.jit, static_argnames=("model", "size", "group"))
def _compact(
    model: VLM,
    rows: _Rows,
    place: jax.Array,
    results: Completions | None,
    size: int,
    group: int | None,
) -> tuple[_Rows, jax.Array, jax.Array, Completions]:
    """Takes `size` rows of each device, those that aren't done and some others.

    Args:
      model: for its mesh.
      rows: N x r of them.
      place: [N,r], where a row stood at first among those of its device.
      results: of all rows that there were, [B*G,T]; None as long as they are all here.
      size: at least as many as there are to do.
      group: G; None where every row has a prompt of its own.

    Returns:
      (rows; their places [N,size]; the index [N,size] of their prompts among those of the device;
      the results with what is known so far).
    """
    order = jnp.argsort(rows.done.reshape(len(place), -1), axis=1, stable=True)[:, :size]
    smaller = {
        field.name: jax.tree.map(lambda x: _take(model, x, order), getattr(rows, field.name))
        for field in dataclasses.fields(rows)
        if field.name != "time"
    }
    results = _merge(rows.out, place, results)
    place = constrain(jnp.take_along_axis(place, order, axis=1), "R.", model.mesh)
    return rows.replace(**smaller), place, order if group is None else place // group, results


@functools.partial(jax.jit, static_argnames="model")
def _take_prompts(model: VLM, prompts: PromptCache, index: jax.Array) -> PromptCache:
    """A prompt for every row: `index` [N,r] counts among the prompts of its device."""
    return PromptCache(*jax.tree.map(lambda x: _take(model, x, index), (prompts.kv, prompts.mask)))


@functools.partial(jax.jit, static_argnames=("model", "group"))
def _finish(model, out: Completions, place, results: Completions | None, group: int) -> Completions:
    """All results in their places, [B,G,T]."""

    def shape(x):
        x = x.reshape(-1, group, *x.shape[1:])
        return constrain(x, "BGT"[: x.ndim], model.mesh)

    return jax.tree.map(shape, _merge(out, place, results))


def _merge(out: Completions, place, results: Completions | None) -> Completions:
    """`results` [B*G,...] with those of some rows in their places."""
    if results is None:
        return out

    def put(whole, x):
        return jax.vmap(lambda whole, x, place: whole.at[place].set(x))(
            *(y.reshape(len(place), -1, *y.shape[1:]) for y in (whole, x)), place
        ).reshape(whole.shape)

    return jax.tree.map(put, results, out)


def _take(model, x: jax.Array, index: jax.Array) -> jax.Array:
    """[N*m,...] -> [N*r,...] by an index [N,r] into the m of the same device."""
    x = x.reshape(len(index), -1, *x.shape[1:])
    x = jax.vmap(lambda x, index: x[index])(x, index)
    x = x.reshape(-1, *x.shape[2:])
    return constrain(x, {1: "R", 2: "R.", 4: "RK.."}[x.ndim], model.mesh)
