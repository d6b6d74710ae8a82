"""Group sampling: G completions of each prompt, in one jitted function.

The prompt goes through the model once. The loop then extends all completions by a token at a
time, and ends early when all are done. Its cache grows in chunks, so that short completions never
pay for the room of long ones.
"""

import functools

import flax
import jax
import jax.numpy as jnp

from rrft_jax.models import parameters
from rrft_jax.models.language import KeyValues
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.qwen2_vl import Qwen2VL
from rrft_jax.parallel.sharding import constrain
from rrft_jax.rollout.sampling import EXCLUDED, SamplingParams, sample

PLAIN = SamplingParams()
CACHE_CHUNK = 256  # tokens by which the cache grows


@flax.struct.dataclass
class Completions:
    """What was sampled.

    Attributes:
      tokens: [B,G,T] int32; after its end a completion holds `pad_token`.
      mask: [B,G,T] bool, True on sampled tokens, the stop token included.
      log_probs: [B,G,T] float32 under the policy itself (temperature 1, whole vocabulary).
      finished: [B,G] bool; False where a completion was cut off at T tokens.
    """

    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    finished: jax.Array


@flax.struct.dataclass
class _State:
    """The loop, before the token at index `time` is drawn from `hidden` [B,G,D]."""

    time: jax.Array
    hidden: jax.Array
    cache: KeyValues
    out: Completions


@functools.partial(
    jax.jit,
    static_argnames=(
        "model",
        "num_samples",
        "max_new_tokens",
        "stop_tokens",
        "banned",
        "pad_token",
    ),
)
def generate(
    model: Qwen2VL,
    params: dict,
    prompt: Prompt,
    key: jax.Array,
    *,
    num_samples: int = 1,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    sampling: SamplingParams = PLAIN,
    banned: tuple[int, ...] | None = None,
    pad_token: int = 0,
    first_row: jax.Array | int = 0,
) -> Completions:
    """Samples completions.

    Args:
      model: the model.
      params: its parameters.
      prompt: B prompts.
      key: the draw of a token is a function of (key, prompt index, sample index, token index).
      num_samples: G.
      max_new_tokens: T.
      stop_tokens: any of these ends a completion (`Processor.stop_tokens`).
      sampling: temperature, top-k and top-p; traced.
      banned: tokens that are never drawn; None bans those that stand for pictures.
      pad_token: fills up the ends.
      first_row: index of the first prompt where a data set comes in several batches: what a
        sample draws then doesn't depend on the size of the batches.
    """
    batch, group, length = len(prompt.tokens), num_samples, max_new_tokens
    banned = model.config.visual_tokens if banned is None else banned
    params = _decoding_layout(model, params)
    rows = first_row * group + jnp.arange(batch * group).reshape(batch, group)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))(key, rows)

    def step(state: _State) -> _State:
        time, out = state.time, state.out
        logits = constrain(model.logits(params, state.hidden), "BGV", model.mesh)
        allowed = logits.at[..., jnp.array(banned, int)].set(EXCLUDED)
        token_keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(keys, time)
        tokens = sample(token_keys, allowed, sampling)
        tokens = jnp.where(out.finished, pad_token, tokens)
        log_probs = jax.nn.log_softmax(logits)
        log_probs = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
        stopped = jnp.isin(tokens, jnp.array(stop_tokens, int)) & ~out.finished
        out = Completions(
            tokens=out.tokens.at[:, :, time].set(tokens),
            mask=out.mask.at[:, :, time].set(~out.finished),
            log_probs=out.log_probs.at[:, :, time].set(jnp.where(out.finished, 0.0, log_probs)),
            finished=out.finished | stopped,
        )
        hidden, cache = model.decode(params, tokens, time, prompt, prompt_kv, state.cache)
        return _State(time + 1, hidden, cache, out)

    hidden, prompt_kv = model.prefill(params, prompt)
    state = _State(
        time=jnp.zeros((), jnp.int32),
        hidden=jnp.broadcast_to(hidden[:, None], (batch, group, hidden.shape[-1])),
        cache=model.empty_cache(batch, group, 0),
        out=Completions(
            tokens=jnp.full((batch, group, length), pad_token, jnp.int32),
            mask=jnp.zeros((batch, group, length), bool),
            log_probs=jnp.zeros((batch, group, length), jnp.float32),
            finished=jnp.zeros((batch, group), bool),
        ),
    )
    for start in range(0, length, CACHE_CHUNK):
        end = min(start + CACHE_CHUNK, length)
        more = model.empty_cache(batch, group, end - start)
        cache = KeyValues(*(jnp.concatenate(pair, axis=3) for pair in zip(state.cache, more)))
        state = jax.lax.while_loop(
            lambda s, end=end: (s.time < end) & ~jnp.all(s.out.finished),
            step,
            state.replace(cache=cache),
        )
    return state.out


def _decoding_layout(model: Qwen2VL, params: dict) -> dict:
    """Weights as the loop reads them: cast, and gathered out of `fsdp` (but not `tensor`), once."""

    def lay_out(x, letters):
        return constrain(x.astype(model.dtype), letters.replace("D", "."), model.mesh)

    return jax.tree.map(lay_out, params, parameters.parameter_axes(model.config))
