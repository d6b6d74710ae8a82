"""The programs of the sampler, jitted: the prompts, the loop over tokens, and changes of its shape.

`generation.py` calls them. The loop extends all completions by one token at a time. It ends if the
cache is full, or if the unfinished sequences fit a smaller batch; another program then goes on.

In a stream of batches (`stream.py`) the next prompts take the rows that have become free. The
sequences then begin at different times, and their caches and results are rings: time t has the
place t modulo the length.
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
from rrft_jax.models.prompt import AXES, Prompt
from rrft_jax.models.vlm import VLM, LayerCaches, PromptCache
from rrft_jax.parallel.sharding import constrain, micro_batch
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
class Refill:
    """A part of a batch, and the rows that it takes.

    Attributes:
      batch: the prompts of the whole batch.
      draws: the random numbers of the whole batch.
      number: the number of the part; it has every so-manyth prompt of each device.
      slots: [N,n], the places of its prompts among the prompts of each device.
    """

    batch: Prompt
    draws: Draws
    number: Int[Array, ""]
    slots: Int[Array, "shards n"]


@flax.struct.dataclass
class Sequences:
    """The sequences that are being sampled, before the token of `time` is drawn.

    Attributes:
      time: the time, a scalar; without `begun` it is the index of the next token.
      hidden: the hidden states [R,D] from which the next token is drawn.
      cache: each layer's keys [R,K,C,T'] and values [R,K,T',C]; T' grows.
      uniform: random numbers [R,T] in [0, 1), one for each draw.
      next_position: the position [R] that each sequence would have at time 0.
      budget: the time [R] at which each sequence ends at the latest.
      done: [R] bool, True for a sequence that is finished or at the end of its budget.
      out: the rollouts so far, with arrays [R,T] and [R].
      begun: the time [R] of each sequence's first token; None if it is 0 for all of them.
    """

    time: Int[Array, ""]
    hidden: Float[Array, "R D"]
    cache: LayerCaches
    uniform: Float32[Array, "R T"]
    next_position: Int[Array, " R"]
    budget: Int[Array, " R"]
    done: Bool[Array, " R"]
    out: Rollouts
    begun: Int[Array, " R"] | None = None


@functools.partial(jax.jit, static_argnames=("fixed", "length"))
@jax.named_scope("sample")
def begin(
    fixed: Fixed, params: dict, prompt: Prompt, draws: Draws, length: int
) -> tuple[PromptCache, Sequences]:
    """Run the prompts through the model; return their caches, and sequences of `length` room."""
    return _begin(fixed, params, prompt, draws, jnp.arange(len(draws.budget)), length)


def _begin(
    fixed: Fixed,
    params: dict,
    prompt: Prompt,
    draws: Draws,
    prompt_ids: Int[Array, " B"],
    length: int,
) -> tuple[PromptCache, Sequences]:
    """Run prompts through the model; `prompt_ids` are their places in their whole batch."""
    model, (batch, group) = fixed.model, draws.budget.shape
    rows = batch * group
    first = (draws.first_row + prompt_ids) * group
    index = (first[:, None] + jnp.arange(group)).reshape(-1)
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


@functools.partial(jax.jit, static_argnames="fixed", donate_argnames=("prompts", "sequences"))
@jax.named_scope("sample")
def refill(
    fixed: Fixed, params: dict, part: Refill, prompts: PromptCache, sequences: Sequences
) -> tuple[PromptCache, Sequences, Rollouts]:
    """Run a part of a batch through the model, and put its sequences into their places.

    Every prompt has its G sequences, in order (`prompts.slots` is None). The caches of the
    sequences are not needed: they keep what is in them, because no sequence sees a time before its
    own.

    Returns:
      (the prompts; the sequences; the rollouts [N*n*G,T] that were in these places).
    """
    model, time, group = fixed.model, sequences.time, part.draws.budget.shape[1]
    whole = part.batch, part.draws.budget, jnp.arange(len(part.draws.budget))
    axes = AXES, "BG", "B"
    taken = micro_batch(whole, axes, len(part.draws.budget) // part.slots.size, part.number)
    batch, budget, prompt_ids = jax.tree.map(
        lambda own, x: constrain(x, own, model.mesh), axes, taken
    )
    draws = part.draws.replace(budget=budget)
    own, new = _begin(fixed, params, batch, draws, prompt_ids, 0)
    new = new.replace(
        uniform=jnp.roll(new.uniform, time, axis=1),
        next_position=new.next_position - time,
        budget=new.budget + time,
        begun=jnp.full_like(new.budget, time),
    )
    rows = part.slots[..., None] * group + jnp.arange(group)
    rows = rows.reshape(len(part.slots), -1)

    def put(whole: jax.Array, x: jax.Array, slots: jax.Array) -> jax.Array:
        axes = {1: "R", 2: "R.", 4: "RK.."}[x.ndim]
        return constrain(_put(whole, x, slots), axes, model.mesh)

    left = jax.tree.map(lambda x: _take(model, x, rows), sequences.out)
    kept = {"time", "cache"}
    names = [field.name for field in dataclasses.fields(sequences) if field.name not in kept]
    placed = {
        name: jax.tree.map(
            lambda whole, x: put(whole, x, rows), getattr(sequences, name), getattr(new, name)
        )
        for name in names
    }
    kv, mask = jax.tree.map(
        lambda whole, x: put(whole, x, part.slots), (prompts.kv, prompts.mask), (own.kv, own.mask)
    )
    return PromptCache(kv, mask), sequences.replace(**placed), left


@functools.partial(jax.jit, static_argnames=("fixed", "group"))
def free(fixed: Fixed, done: Bool[Array, " R"], group: int) -> Bool[Array, "shards r"]:
    """Return the prompts of each device whose `group` sequences are all done, on every process."""
    return constrain(done.reshape(fixed.shards, -1, group).all(-1), "..", fixed.model.mesh)


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

    def full(sequences: Sequences) -> jax.Array | int:
        """Return the time at which an unfinished sequence has filled its cache."""
        if sequences.begun is None:
            return length
        return length + jnp.min(jnp.where(sequences.done, sequences.time, sequences.begun))

    def step(sequences: Sequences) -> Sequences:
        time, done, out = sequences.time, sequences.done, sequences.out
        column = time if sequences.begun is None else time % fixed.max_new_tokens
        logits = constrain(model.logits(weights, sequences.hidden), "RV", model.mesh)
        uniform = jax.lax.dynamic_index_in_dim(sequences.uniform, column, axis=1, keepdims=False)
        allowed = jnp.where(is_banned, EXCLUDED, logits)
        tokens, sampled = sample(uniform, allowed, sampling, model.mesh)
        # A sum instead of a look-up, because V may be split over devices.
        is_token = tokens[:, None] == jnp.arange(logits.shape[-1])
        chosen = jnp.sum(jnp.where(is_token, logits, 0.0), axis=-1)
        log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
        tokens = jnp.where(done, fixed.pad_token, tokens)
        stopped = jnp.isin(tokens, jnp.array(fixed.stop_tokens, int)) & ~done

        def put(whole, x):
            if sequences.begun is not None:  # the ring of a finished sequence is not overwritten
                before = jax.lax.dynamic_index_in_dim(whole, column, axis=1, keepdims=False)
                x = jnp.where(done, before, x)
            return jax.lax.dynamic_update_slice_in_dim(whole, x[:, None], column, axis=1)

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
            weights,
            tokens,
            time,
            sequences.next_position,
            prompts,
            sequences.cache,
            sequences.begun,
        )
        return sequences.replace(time=time + 1, hidden=hidden, cache=cache, done=done, out=out)

    def goes_on(sequences: Sequences) -> jax.Array:
        return (sequences.time < full(sequences)) & (most(sequences) > enough)

    sequences = jax.lax.while_loop(goes_on, step, sequences)
    return sequences, constrain(most(sequences), "", model.mesh)


@functools.partial(jax.jit, static_argnames=("model", "length"))
def grow(model: VLM, sequences: Sequences, length: int) -> Sequences:
    """Make room for `length` tokens in the cache."""
    now, last = sequences.cache[0].length, sequences.time - 1

    def longer(x: jax.Array, axis: int) -> jax.Array:
        if sequences.begun is None:
            x = jnp.pad(x, [(0, length - now) if i == axis else (0, 0) for i in range(x.ndim)])
        else:  # a place of the longer ring has the latest time that belongs there
            times = last - (last - jnp.arange(length)) % length
            x = jnp.take(x, times % now, axis)
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

    return jax.tree.map(lambda whole, x: _put(whole, x, slot_ids), results, out)


def _put(
    whole: Shaped[Array, "m_in_all ..."],
    x: Shaped[Array, "r_in_all ..."],
    slots: Int[Array, "shards r"],
) -> Shaped[Array, "m_in_all ..."]:
    """Write sequences or prompts into the `slots`-th places of each device."""
    return jax.vmap(lambda whole, x, slots: whole.at[slots].set(x))(
        *(y.reshape(len(slots), -1, *y.shape[1:]) for y in (whole, x)), slots
    ).reshape(whole.shape)


def _take(
    model: VLM, x: Shaped[Array, "m_in_all ..."], index: Int[Array, "shards r"]
) -> Shaped[Array, "r_in_all ..."]:
    """Take the `index`-th of the sequences or prompts on each device."""
    x = x.reshape(len(index), -1, *x.shape[1:])
    x = jax.vmap(lambda x, index: x[index])(x, index)
    x = x.reshape(-1, *x.shape[2:])
    return constrain(x, {1: "R", 2: "R.", 4: "RK.."}[x.ndim], model.mesh)
