"""The programs of the sampler, jitted: the prompts, the loop over tokens, and changes of its shape.

`generation.py` calls them. The loop extends all completions by one token at a time. It ends if the
cache is full, or if the unfinished sequences fit a smaller batch; another program then goes on.
"""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from rrft_jax.models.arrays import Array
from rrft_jax.models.attention import KeyValues
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM, LayerCaches, PromptCache
from rrft_jax.parallel.sharding import constrain
from rrft_jax.rollout.rollouts import Rollouts
from rrft_jax.rollout.sampling import EXCLUDED, SamplingParams, sample


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The settings that the sampler's programs are compiled for; a static argument.

    Attributes:
      model: the model.
      max_new_tokens: T, the most tokens of a completion.
      stop_tokens: the tokens that end a completion.
      pad_token: the token after the end of a completion.
      shards: the number of devices that the sequences are split over evenly.
    """

    model: VLM
    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    pad_token: int
    shards: int


@flax.struct.dataclass
class Draws:
    """The source of the random numbers, and the token limit of each completion.

    A draw is a function of (key, prompt index, sample index, token index).

    Attributes:
      key: the random key.
      first_row: the index of the first prompt.
      budget: the most tokens of each completion, [B,G] int.
    """

    key: Array
    first_row: Int[Array, ""]
    budget: Int[Array, "B G"]


@flax.struct.dataclass
class Sequences:
    """The sequences that are being sampled, before the token at index `time` is drawn.

    Attributes:
      time: the index of the next token, a scalar.
      hidden: the hidden states [R,D] from which the next token is drawn.
      cache: each layer's keys [R,K,C,T'] and values [R,K,T',C]; T' grows.
      uniform: random numbers [R,T] in [0, 1), one for each draw.
      next_position: the position [R] of each sequence's first token.
      budget: the most tokens [R] of each sequence.
      done: [R] bool, True for a sequence that is finished or at the end of its budget.
      out: the rollouts so far, with arrays [R,T] and [R].
    """

    time: Int[Array, ""]
    hidden: Float[Array, "R D"]
    cache: LayerCaches
    uniform: Float32[Array, "R T"]
    next_position: Int[Array, " R"]
    budget: Int[Array, " R"]
    done: Bool[Array, " R"]
    out: Rollouts


@functools.partial(jax.jit, static_argnames=("fixed", "length"))
@jax.named_scope("sample")
def begin(
    fixed: Fixed, params: dict, prompt: Prompt, draws: Draws, length: int
) -> tuple[PromptCache, Sequences]:
    """Run the prompts through the model; return their caches, and sequences of `length` room."""
    model, (batch, group) = fixed.model, draws.budget.shape
    rows = batch * group
    index = draws.first_row * group + jnp.arange(rows)
    hidden, kv = model.prefill(params, prompt)

    def draw(row, time):
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(draws.key, row), time))

    def pin(x):
        return constrain(x, "R" + "." * (x.ndim - 1), model.mesh)

    def filled(value, dtype):
        return pin(jnp.full((rows, fixed.max_new_tokens), value, dtype))

    times = jnp.arange(fixed.max_new_tokens)
    sequences = Sequences(
        time=jnp.zeros((), jnp.int32),
        hidden=pin(jnp.repeat(hidden, group, axis=0)),
        cache=model.empty_cache(rows, length),
        uniform=pin(jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(index, times)),
        next_position=pin(jnp.repeat(prompt.next_position, group)),
        budget=pin(jnp.minimum(draws.budget, fixed.max_new_tokens).reshape(-1)),
        done=pin(jnp.zeros(rows, bool)),
        out=Rollouts(
            prompt=None,
            tokens=filled(fixed.pad_token, jnp.int32),
            mask=filled(False, bool),
            log_probs=filled(0, jnp.float32),
            rollout_log_probs=filled(0, jnp.float32),
            finished=pin(jnp.zeros(rows, bool)),
        ),
    )
    return PromptCache(kv, prompt.mask), sequences


@functools.partial(jax.jit, static_argnames="fixed", donate_argnames="sequences")
@jax.named_scope("sample")
def advance(
    fixed: Fixed,
    weights: dict,
    prompts: PromptCache,
    sequences: Sequences,
    sampling: SamplingParams,
    enough: Int[Array, ""],
) -> tuple[Sequences, Int[Array, ""]]:
    """Extend the sequences by one token at a time.

    The loop ends when the cache is full, or when no device has more than `enough` unfinished
    sequences.

    Returns:
      (the sequences; the largest number of unfinished sequences on any device).
    """
    model = fixed.model
    length = sequences.cache[0].length
    is_banned = np.zeros(model.config.text.vocab_size, bool)
    is_banned[list(model.config.visual_tokens)] = True

    def most(sequences: Sequences) -> jax.Array:
        return jnp.max(jnp.sum(~sequences.done.reshape(fixed.shards, -1), axis=1))

    def step(sequences: Sequences) -> Sequences:
        time, done, out = sequences.time, sequences.done, sequences.out
        logits = constrain(model.logits(weights, sequences.hidden), "RV", model.mesh)
        uniform = jax.lax.dynamic_index_in_dim(sequences.uniform, time, axis=1, keepdims=False)
        allowed = jnp.where(is_banned, EXCLUDED, logits)
        tokens, sampled = sample(uniform, allowed, sampling, model.mesh)
        # A sum instead of a look-up, because V may be split over devices.
        is_token = tokens[:, None] == jnp.arange(logits.shape[-1])
        chosen = jnp.sum(jnp.where(is_token, logits, 0.0), axis=-1)
        log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
        tokens = jnp.where(done, fixed.pad_token, tokens)
        stopped = jnp.isin(tokens, jnp.array(fixed.stop_tokens, int)) & ~done

        def put(column, x):
            return jax.lax.dynamic_update_slice_in_dim(column, x[:, None], time, axis=1)

        out = Rollouts(
            prompt=None,
            tokens=put(out.tokens, tokens),
            mask=put(out.mask, ~done),
            log_probs=put(out.log_probs, jnp.where(done, 0.0, log_probs)),
            rollout_log_probs=put(out.rollout_log_probs, jnp.where(done, 0.0, sampled)),
            finished=out.finished | stopped,
        )
        done |= stopped | (time + 1 >= sequences.budget)
        hidden, cache = model.decode(
            weights, tokens, time, sequences.next_position, prompts, sequences.cache
        )
        return sequences.replace(time=time + 1, hidden=hidden, cache=cache, done=done, out=out)

    def goes_on(sequences: Sequences) -> jax.Array:
        return (sequences.time < length) & (most(sequences) > enough)

    sequences = jax.lax.while_loop(goes_on, step, sequences)
    return sequences, constrain(most(sequences), "", model.mesh)


@functools.partial(jax.jit, static_argnames=("model", "length"))
def grow(model: VLM, sequences: Sequences, length: int) -> Sequences:
    """Make room for `length` tokens in the cache."""
    more = (0, length - sequences.cache[0].length)

    def longer(x: jax.Array, axis: int) -> jax.Array:
        x = jnp.pad(x, [more if i == axis else (0, 0) for i in range(x.ndim)])
        return constrain(x, "RK..", model.mesh)

    cache = tuple(KeyValues(longer(k, 3), longer(v, 2)) for k, v in sequences.cache)
    return sequences.replace(cache=cache)


@functools.partial(jax.jit, static_argnames=("model", "size", "group"))
def compact(
    model: VLM,
    sequences: Sequences,
    slot_ids: Int[Array, "shards r"],
    results: Rollouts | None,
    size: int,
    group: int | None,
) -> tuple[Sequences, Int[Array, "shards size"], Int[Array, "shards size"], Rollouts]:
    """Keep `size` sequences on each device: all unfinished ones, and some finished ones.

    Args:
      model: the model, of which only the mesh is used.
      sequences: N x r sequences on N devices.
      slot_ids: [N,r], the first place of each sequence among the sequences of its device.
      results: the results [B*G,T] of all sequences; None as long as no sequence was dropped.
      size: the number to keep, at least the number of unfinished sequences on any device.
      group: G; None if every sequence has a prompt of its own.

    Returns:
      (sequences; their slots [N,size]; the index [N,size] of their prompts among the prompts of
      the device; the results so far).
    """
    order = jnp.argsort(sequences.done.reshape(len(slot_ids), -1), axis=1, stable=True)[:, :size]
    smaller = {
        field.name: jax.tree.map(lambda x: _take(model, x, order), getattr(sequences, field.name))
        for field in dataclasses.fields(sequences)
        if field.name != "time"
    }
    results = _merge(sequences.out, slot_ids, results)
    slot_ids = constrain(jnp.take_along_axis(slot_ids, order, axis=1), "R.", model.mesh)
    prompt_ids = order if group is None else slot_ids // group
    return sequences.replace(**smaller), slot_ids, prompt_ids, results


@functools.partial(jax.jit, static_argnames="model")
def take_prompts(
    model: VLM, prompts: PromptCache, prompt_ids: Int[Array, "shards r"]
) -> PromptCache:
    """Return a prompt cache for every sequence; `prompt_ids` [N,r] count on each device."""
    taken = jax.tree.map(lambda x: _take(model, x, prompt_ids), (prompts.kv, prompts.mask))
    return PromptCache(*taken)


@functools.partial(jax.jit, static_argnames=("model", "group"))
def finish(
    model: VLM,
    out: Rollouts,
    slot_ids: Int[Array, "shards r"],
    results: Rollouts | None,
    group: int,
) -> Rollouts:
    """Return all results in their slots, [B,G,T]."""

    def shape(x):
        x = x.reshape(-1, group, *x.shape[1:])
        return constrain(x, "BGT"[: x.ndim], model.mesh)

    return jax.tree.map(shape, _merge(out, slot_ids, results))


def _merge(out: Rollouts, slot_ids: Int[Array, "shards r"], results: Rollouts | None) -> Rollouts:
    """Return `results` [B*G,...] with the results of some sequences written into their slots."""
    if results is None:
        return out

    def put(whole, x):
        return jax.vmap(lambda whole, x, slots: whole.at[slots].set(x))(
            *(y.reshape(len(slot_ids), -1, *y.shape[1:]) for y in (whole, x)), slot_ids
        ).reshape(whole.shape)

    return jax.tree.map(put, results, out)


def _take(
    model: VLM, x: Shaped[Array, "m_in_all ..."], index: Int[Array, "shards r"]
) -> Shaped[Array, "r_in_all ..."]:
    """Take the `index`-th of the sequences or prompts on each device."""
    x = x.reshape(len(index), -1, *x.shape[1:])
    x = jax.vmap(lambda x, index: x[index])(x, index)
    x = x.reshape(-1, *x.shape[2:])
    return constrain(x, {1: "R", 2: "R.", 4: "RK.."}[x.ndim], model.mesh)
